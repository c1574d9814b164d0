"""Cascades as a figure: accuracy against dimensions, beside every granularity by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..heads import Array
from .curve import reports_of
from .policy import CascadePolicy
from .report import CascadeReport

PANELS = (
    ("expected_dim", "expected dimension\n(accepted level)"),
    ("cumulative_dim", "expected dimension\n(all levels visited, added up)"),
)
MARKERS = "oDv^P*X<>"


def plot_cascade(
    probabilities: Array | tuple[Array, Array],
    labels: Array | None,
    policies: Mapping[str, CascadePolicy | Sequence[CascadePolicy]],
    *,
    logits: bool = False,
    confidence_level: float = 0.95,
    title: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Any:
    """Draw accuracy against expected dimension, with exact intervals, in both accountings.

    A sequence of policies is a family and becomes a curve. A single policy becomes a point, with a thin line
    through the same policy stopped early, ``policy.capped(k)`` for ``k = 1, ..., G``. Beside them: each
    granularity answering alone, and the oracle, the share for which at least one level is right.

    Args:
        probabilities: ``(G, ..., C)`` floating, of any framework; or ``(confidence, correct)`` as in
            :func:`fit_cascade`.
        labels: ``(...)`` integer class indices of any framework, or a list; ``None`` with a pair.
        policies: names for the legend to policies or sequences of them, all with the same dims or the first of them;
            the longest has ``G`` levels.
        logits: ``probabilities`` are logits.
        confidence_level: of the intervals, between 0 and 1.
        title: above the panels.
        path: where to write the figure, in the format of its suffix; ``None`` writes nothing.

    Returns:
        A ``matplotlib.figure.Figure``; nothing is registered with ``pyplot``.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
        TypeError: ``policies`` is no mapping, or as :func:`cascade_curve`.
        ValueError: as :func:`cascade_curve`.

    Example:
        >>> import mrl, numpy as np
        >>> confidence, correct = np.array([[0.9, 0.6], [0.9, 0.9]]), np.array([[True, False], [True, True]])
        >>> figure = mrl.plot_cascade((confidence, correct), None, {"0.8": mrl.CascadePolicy((0.8,), (8, 16))})
        >>> len(figure.axes)
        2

    Source: arXiv 2205.13147, figure 6 and appendix D.1.
    """
    if not isinstance(policies, Mapping):
        raise TypeError(
            f"policies: expected names to policies, got {type(policies).__name__}; write {{'greedy': policy}}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the figure needs matplotlib ({error}); run pip install 'mrl[plot]'") from error
    families = {name: _family(name, entry) for name, entry in policies.items()}
    everything = [policy for family in families.values() for _, policy in family]
    places = [place for family in families.values() for place, _ in family]
    found = reports_of(probabilities, labels, everything, logits, confidence_level, 0, places) if everything else []
    remaining = iter(report for _, report, _ in found)
    lines = {name: [next(remaining) for _ in family] for name, family in families.items()}
    drawing = Figure(figsize=(10, 4.4), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    whole = max((report for _, report, _ in found), key=lambda report: len(report.dims), default=None)
    for panel, (measure, axis) in zip(panels, PANELS, strict=True):
        if whole is not None:
            _levels(panel, whole)
        for i, (name, reports) in enumerate(lines.items()):
            single = isinstance(policies[name], CascadePolicy)
            _line(panel, name, reports, measure, i, single)
        panel.set_xscale("log", base=2)
        if whole is not None:
            panel.set_xticks(whole.dims, [str(m) for m in whole.dims])
            panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy, %")
    handles, names = panels[0].get_legend_handles_labels()
    drawing.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    if title is not None:
        drawing.suptitle(title)
    if path is not None:
        drawing.savefig(path, dpi=150)
    return drawing


def _family(name: str, entry: Any) -> list[tuple[str, CascadePolicy]]:
    """The policies of a line, each with the place that an error about it names."""
    place = f"policies[{name!r}]"
    if isinstance(entry, CascadePolicy):
        return [(place, entry.capped(k + 1)) for k in range(len(entry))]
    if isinstance(entry, str) or not isinstance(entry, Iterable):
        raise TypeError(
            f"{place}: expected an mrl.CascadePolicy or several, got {type(entry).__name__}; "
            "fit one with mrl.fit_cascade"
        )
    family = [(f"{place}[{i}]", policy) for i, policy in enumerate(entry)]
    if not family:
        raise ValueError(f"{place}: expected at least one policy, got none; leave the name out")
    return family


def _levels(panel: Any, report: CascadeReport) -> None:
    heights = [interval.value for interval in report.level_accuracies]
    errors = [[x.value - x.low for x in report.level_accuracies], [x.high - x.value for x in report.level_accuracies]]
    panel.errorbar(
        report.dims,
        100 * np.array(heights),
        100 * np.array(errors),
        color="0.35",
        marker="s",
        markersize=4,
        linewidth=1,
        linestyle=":",
        capsize=2,
        label="one granularity for all",
    )
    oracle = 100 * report.oracle_accuracy.value
    panel.axhline(oracle, color="0.35", linewidth=1, linestyle="--", label="oracle: the best level for each")


def _line(panel: Any, name: str, reports: list[CascadeReport], measure: str, i: int, single: bool) -> None:
    color, marker = f"C{i % 10}", MARKERS[i % len(MARKERS)]
    places = np.array([getattr(report, measure).value for report in reports])
    heights = 100 * np.array([report.accuracy.value for report in reports])
    if single:
        panel.plot(
            places,
            heights,
            color=color,
            linewidth=0.9,
            marker=".",
            markersize=4,
            alpha=0.7,
            label=f"{name}, stopped early",
        )
        last = reports[-1].accuracy
        error = 100 * np.array([[last.value - last.low], [last.high - last.value]])
        panel.errorbar(
            places[-1:],
            heights[-1:],
            error,
            color=color,
            marker=marker,
            markersize=7,
            capsize=3,
            linestyle="",
            label=name,
        )
        return
    order = np.argsort(places, kind="stable")
    low = 100 * np.array([report.accuracy.low for report in reports])
    high = 100 * np.array([report.accuracy.high for report in reports])
    panel.fill_between(places[order], low[order], high[order], color=color, alpha=0.15, linewidth=0)
    panel.plot(places[order], heights[order], color=color, marker=marker, markersize=3.5, linewidth=1.4, label=name)
