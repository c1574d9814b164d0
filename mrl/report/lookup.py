"""The rows of a report by metric, method and size, and which of them are shown first."""

from __future__ import annotations

from .values import Report, ReportCost, ReportDifference, ReportRow
from .words import ordered_methods, ordered_metrics

SUMMARY = ("recall_at_k", "rank_correlation", "nn_accuracy", "linear_accuracy", "ndcg_at_k")
"""What the table of sizes, and that of a model card, have of the prefix."""

Cells = dict[tuple[str, int], ReportRow]


def metrics_of(report: Report) -> list[str]:
    """The metrics of a report, the first of them the one that stands for the others."""
    return ordered_metrics(row.metric for row in report.rows)


def cells_of(report: Report, metric: str) -> Cells:
    """The figures of one metric, by method and size."""
    return {(row.method, row.dim): row for row in report.rows if row.metric == metric}


def differences_of(report: Report, metric: str) -> dict[tuple[str, int], ReportDifference]:
    """The differences of one metric, by method and size."""
    return {(one.method, one.dim): one for one in report.differences if one.metric == metric}


def methods_of(cells: Cells) -> list[str]:
    """The methods that have a figure."""
    return ordered_methods(method for method, _ in cells)


def sizes_of(cells: Cells) -> list[int]:
    """The sizes that have a figure, ascending."""
    return sorted({dim for _, dim in cells})


def summary_of(report: Report) -> tuple[str, list[str]]:
    """A method, the prefix where there is one, and those of its metrics that a short table has."""
    methods = ordered_methods(row.method for row in report.rows)
    if not methods:
        return "prefix", []
    have = {row.metric for row in report.rows if row.method == methods[0]}
    return methods[0], [name for name in SUMMARY if name in have] or ordered_metrics(have)[:4]


def cost_of(report: Report, method: str, dim: int) -> ReportCost | None:
    """What a method costs at a size, where the report says it."""
    return next((cost for cost in report.costs if (cost.method, cost.dim) == (method, dim)), None)


def grouped_costs(report: Report) -> list[tuple[list[str], list[ReportCost]]]:
    """Methods that cost the same at every size, together."""
    groups: dict[tuple[tuple[float | None, ...], ...], list[str]] = {}
    for method in ordered_methods(cost.method for cost in report.costs):
        key = tuple(sorted(cost[1:] for cost in report.costs if cost.method == method))
        groups.setdefault(key, []).append(method)
    return [
        (names, sorted((c for c in report.costs if c.method == names[0]), key=lambda c: c.dim))
        for names in groups.values()
    ]
