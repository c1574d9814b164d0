"""The figures of a report by name, and the sizes that they single out."""

from __future__ import annotations

from collections.abc import Sequence

from .values import ReportCost, ReportDifference, ReportRow

GOALS = (0.99, 0.95, 0.9)
"""Shares of the neighbours that a size is asked to keep: what counts is the first that some size keeps."""

SAFE = 0.9
"""A size that surely keeps less than this is not safe."""

GAIN = 0.01
"""A difference that matters: one point."""


class Figures:
    """The rows and differences by name."""

    def __init__(
        self,
        rows: Sequence[ReportRow],
        differences: Sequence[ReportDifference],
        costs: Sequence[ReportCost],
        sizes: Sequence[int],
        k: int,
        queries: int,
    ) -> None:
        self.rows = {row[:3]: row for row in rows}
        self.differences = {row[:3]: row for row in differences}
        self.costs = {row[:2]: row for row in costs}
        self.sizes, self.k, self.queries = tuple(sizes), k, queries

    @property
    def width(self) -> int:
        return self.sizes[-1]

    @property
    def smaller(self) -> tuple[int, ...]:
        return self.sizes[:-1]

    def row(self, dim: int, method: str = "prefix", metric: str = "recall_at_k") -> ReportRow | None:
        return self.rows.get((method, dim, metric))

    def recall(self, dim: int, method: str = "prefix") -> ReportRow:
        return self.rows[method, dim, "recall_at_k"]

    def less(self, method: str, dim: int, metric: str = "recall_at_k") -> ReportDifference | None:
        return self.differences.get((method, dim, metric))

    @property
    def chosen(self) -> tuple[int, float] | None:
        """The smallest size that keeps the first goal that any keeps, surely within a point; and that goal."""
        for goal in GOALS:
            for m in self.smaller:
                if keeps(self.recall(m), goal):
                    return m, goal
        return None

    @property
    def compared(self) -> int:
        """The size at which methods are compared: the chosen one, or the largest below the width."""
        return self.chosen[0] if self.chosen else self.sizes[-2]

    @property
    def unsafe(self) -> int | None:
        """The largest size that, as all below it, surely keeps less than is safe."""
        found = None
        for m in self.smaller:
            if self.recall(m).high >= SAFE:
                break
            found = m
        return found


def keeps(row: ReportRow, goal: float) -> bool:
    """Whether a share is the goal, and is not less by more than a point by chance."""
    return row.value >= goal and row.low >= goal - GAIN
