"""What a run found, as a table with its sentences, as JSON, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .evaluate import Correct
from .port import Port
from .settings import DIMS

FAMILIES = ("FF", "MRL", "MRL-E")
MEASURES = {"linear": "linear head", "neighbour": "1-NN"}
Results = dict[str, dict[str, Correct]]
"""Measure to family to which test examples were right, ``(len(DIMS), N)``."""


def accuracies(results: Results) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Accuracy and its standard error, ``sqrt(a (1 - a) / N)``, by measure, family and granularity."""

    def one(correct: Correct) -> dict[str, float]:
        accuracy = float(correct.mean())
        return {"accuracy": accuracy, "standard_error": float(np.sqrt(accuracy * (1 - accuracy) / correct.size))}

    return {
        measure: {
            family: [{"dim": m, **one(row)} for m, row in zip(DIMS, rows, strict=True)] for family, rows in by.items()
        }
        for measure, by in results.items()
    }


def table(results: Results) -> str:
    """Granularity x family: test accuracy in percent with its standard error, for each measure."""
    heads = "".join(f"{f'{family}, {MEASURES[measure]}':>21}" for measure in results for family in results[measure])
    lines = [f"{'dims':>6}{heads}"]
    found = accuracies(results)
    for g, m in enumerate(DIMS):
        cells = [found[measure][family][g] for measure in results for family in results[measure]]
        row = "".join(f"{f'''{100 * c['accuracy']:.1f} ± {100 * c['standard_error']:.1f}''':>21}" for c in cells)
        lines.append(f"{m:>6}{row}")
    return "\n".join(lines)


def sentences(results: Results) -> list[str]:
    """How MRL and MRL-E stand beside the fixed-size models, with what the test set cannot tell apart said so.

    The difference of two models on the same examples has the standard error of its mean over the examples;
    what is within two of them is called noise.
    """
    said = []
    for measure, by in results.items():
        for family in ("MRL", "MRL-E"):
            behind: list[str] = []
            ahead: list[str] = []
            noise: list[str] = []
            for m, nested, fixed in zip(DIMS, by[family], by["FF"], strict=True):
                gap = nested.astype(float) - fixed
                error = gap.std() / np.sqrt(gap.size)
                place = noise if abs(gap.mean()) <= 2 * error else behind if gap.mean() < 0 else ahead
                place.append(f"{m} ({100 * gap.mean():+.1f})")
            parts = [
                f"{word} at {', '.join(sizes)}"
                for word, sizes in (("behind FF", behind), ("ahead of FF", ahead), ("within the noise", noise))
                if sizes
            ]
            said.append(f"{family}, {MEASURES[measure]}: {'; '.join(parts)}.")
    return said


def port_table(ports: Sequence[Port]) -> str:
    lines = [f"{'framework':12}{'model':8}{'largest difference':>20}{'its bound':>12}{'share':>9}"]
    lines += [f"{p.backend:12}{p.model:8}{p.difference:>20.2e}{p.bound:>12.2e}{p.share:>9.3f}" for p in ports]
    return "\n".join(lines)


def figure(results: Results, title: str, path: Path) -> None:
    """Accuracy against dimensions, a panel for each measure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the figure needs matplotlib ({error}); run pip install 'mrl[demo]'") from error
    drawing: Any = Figure(figsize=(9, 3.6), layout="constrained")
    found = accuracies(results)
    for panel, measure in zip(drawing.subplots(1, len(results), sharey=True), results, strict=True):
        for family, marker in zip(results[measure], "so^", strict=True):
            points = found[measure][family]
            heights, errors = ([100 * p[key] for p in points] for key in ("accuracy", "standard_error"))
            panel.errorbar(DIMS, heights, errors, marker=marker, capsize=2, label=family)
        panel.set_xscale("log", base=2)
        panel.set_xticks(DIMS, [str(m) for m in DIMS])
        panel.set(xlabel="dimensions", title=MEASURES[measure])
        panel.grid(alpha=0.3)
        panel.legend()
    drawing.axes[0].set_ylabel("test accuracy, %")
    drawing.suptitle(title)
    drawing.savefig(path, dpi=120)
