"""Search against rows, dimensions, shortlist and queries: ``python retrieval_growth.py FIGURE``, half an hour.

Every point is a run of ``retrieval.py`` in a process of its own. Beside the figure lie its numbers as JSON; points that
are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

AXES = {
    "rows": (10_000, 32_000, 100_000, 320_000, 1_000_000),
    "width": (256, 768, 2048, 4096),
    "shortlist": (50, 200, 800),
    "queries": (1, 16, 256, 1024),
}
BASE = {"rows": 100_000, "width": 2048, "shortlist": 200, "queries": 256}
LABELS = {"rows": "rows", "width": "dimensions", "shortlist": "shortlist", "queries": "queries"}
STEPS = ("own", "exact", "two stages", "funnel", "shortlist", "faiss shortlist", "faiss and rerank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figure", type=Path)
    parser.add_argument("--backends", nargs="*", default=["numpy", "torch", "jax", "tensorflow"])
    arguments = parser.parse_args()
    table = arguments.figure.with_suffix(".json")
    found: dict[str, Any] = json.loads(table.read_text()) if table.exists() else {}
    for backend in arguments.backends:
        for axis, values in AXES.items():
            for value in values:
                name = key(backend, {**BASE, axis: value})
                if name not in found:
                    found[name] = measure(backend, {**BASE, axis: value})
                    table.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, arguments.backends, arguments.figure)


def key(backend: str, sizes: dict[str, int]) -> str:
    return " ".join([backend, *(f"{name}={value}" for name, value in sizes.items())])


def measure(backend: str, sizes: dict[str, int]) -> dict[str, float]:
    """Milliseconds of every step."""
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    repeats = "5" if sizes["rows"] < 500_000 else "3"
    script = Path(__file__).with_name("retrieval.py")
    command = [sys.executable, str(script), backend, *options, "--repeats", repeats]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    steps = json.loads(done.stdout.splitlines()[-1])["steps"]
    return {name: round(step["median_ms"], 2) for name, step in steps.items()}


def draw(found: dict[str, Any], backends: list[str], path: Path) -> None:
    figure = Figure(figsize=(4 * len(AXES), 3 * len(backends)), layout="constrained")
    panels = figure.subplots(len(backends), len(AXES), squeeze=False, sharey=True)
    for row, backend in zip(panels, backends, strict=True):
        for panel, (axis, values) in zip(row, AXES.items(), strict=True):
            points = [found[key(backend, {**BASE, axis: value})] for value in values]
            for step in STEPS:
                style = "--" if step == "own" or step.startswith("faiss") else "-"
                panel.plot(values, [point[step] for point in points], style, marker="o", markersize=3, label=step)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            panel.minorticks_off()
            panel.set_xlabel(LABELS[axis])
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"{backend}\nmilliseconds")
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
