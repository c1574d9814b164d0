"""The figure: the cost of one step against the number of levels, classes and dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

LABELS = {"levels": "granularities", "classes": "classes", "width": "dimensions"}


def draw(result: dict[str, Any], path: Path) -> None:
    """One row of panels per framework; every curve is a ratio to the plain head of the same size."""
    backends = {name: found for name, found in result["backends"].items() if found["growth"]}
    if not backends:
        return
    axes = list(LABELS)
    figure = Figure(figsize=(4 * len(axes), 3 * len(backends)), layout="constrained")
    panels = figure.subplots(len(backends), len(axes), squeeze=False, sharey="row")
    for row, (backend, found) in zip(panels, backends.items(), strict=True):
        for panel, axis in zip(row, axes, strict=True):
            points = [point for point in found["growth"] if point["axis"] == axis]
            for name in points[0]["steps"]:
                values = [point["value"] for point in points]
                panel.plot(values, [point["steps"][name]["ratio"] for point in points], marker="o", label=name)
            if axis != "levels":
                panel.set_xscale("log", base=2)
            panel.set_xlabel(LABELS[axis])
            panel.grid(alpha=0.3)
        highest = max(step["ratio"] for point in found["growth"] for step in point["steps"].values())
        row[0].set_ylim(0, 1.05 * highest)  # all three panels share it
        row[0].set_ylabel(f"{backend}, {found['growth'][0]['mode']}\ncost of a step / plain head")
        row[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)
