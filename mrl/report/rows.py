"""Figures a query to figures with intervals, and to differences of methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .planning import ONLY_CUT
from .ranking import Measured
from .resampling import Bootstrap
from .values import METHODS, ReportDifference, ReportRow

ORDER = (
    "recall_at_k",
    "rank_correlation",
    "nn_accuracy",
    "linear_accuracy",
    "fewshot_accuracy_1",
    "fewshot_accuracy_5",
    "fewshot_accuracy_10",
    "rare_accuracy",
    "precision_at_k",
    "map_at_k",
    "ndcg_at_k",
)

CERTAIN = ("recall_at_k", "rank_correlation")
"""Of the full width these are 1 by definition, and not by what was seen."""

FULL = "full"
"""What the prefix at the full width is called, where it is taken off a smaller one."""


def rows_of(
    measured: Measured, sizes: Sequence[int], bootstrap: Bootstrap
) -> tuple[tuple[ReportRow, ...], tuple[ReportDifference, ...]]:
    """All figures, by metric, method and size; and of each metric the prefix less other methods, and less itself."""
    rows: list[ReportRow] = []
    differences: list[ReportDifference] = []
    for metric in ORDER:
        places = [(name, m) for name in METHODS for m in sizes if (name, m, metric) in measured]
        values = {place: np.atleast_2d(measured[*place, metric].T).T for place in places}
        known = {place: np.asarray(~np.isnan(found).any(1)) for place, found in values.items()}
        if not places or not any(where.any() for where in known.values()):
            continue
        # Of a query that nobody asked; an order that has nothing to do with that of the full width has a tau of 0.
        lowest = min(0.0, *(float(np.nanmin(found)) for place, found in values.items() if known[place].any()))
        episodes = values[places[0]].shape[1]
        # The same queries for all: one that has no figure somewhere is left out where it has none.
        for where, group in grouped({place: known[place] for place in places}):
            if not where.any():
                continue
            block = np.concatenate([values[place][where] for place in group], 1)
            ends = bootstrap.of(block, lowest, 1.0, episodes=episodes)
            found = zip(group, plain(ends), strict=True)
            rows += [ReportRow(*place, metric, *certain(place, metric, sizes[-1], each)) for place, each in found]
        pairs = [(("prefix", m), (name, m), name) for name in METHODS[1:] for m in sizes]
        pairs += [(("prefix", m), ("prefix", sizes[-1]), FULL) for m in sizes[:-1]]
        pairs = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        both = {(name, one[1]): np.asarray(known[one] & known[other]) for one, other, name in pairs}
        parts = {(name, one[1]): (one, other) for one, other, name in pairs}
        for where, group in grouped(both):
            if not where.any():
                continue
            block = np.concatenate([(values[parts[g][0]] - values[parts[g][1]])[where] for g in group], 1)
            ends = bootstrap.of(block, lowest - 1.0, 1.0 - lowest, episodes=episodes)
            found = zip(group, plain(ends), strict=True)
            differences += [
                ReportDifference(*place, metric, *((0.0, 0.0, 0.0) if is_full(place, sizes[-1]) else each))
                for place, each in found
            ]
    ranks = {name: i for i, name in enumerate((*METHODS, FULL))}
    rows.sort(key=lambda row: (ORDER.index(row.metric), ranks[row.method], row.dim))
    differences.sort(key=lambda row: (ORDER.index(row.metric), ranks[row.method], row.dim))
    return tuple(rows), tuple(differences)


def is_full(place: tuple[str, int], width: int) -> bool:
    """Whether a method and size is the full width itself, in another order."""
    return place[1] == width and place[0] in ("prefix", *ONLY_CUT)


def certain(place: tuple[str, int], metric: str, width: int, ends: tuple[float, ...]) -> tuple[float, ...]:
    return (1.0, 1.0, 1.0) if metric in CERTAIN and is_full(place, width) else ends


def grouped(
    known: dict[tuple[str, int], NDArray[np.bool_]],
) -> list[tuple[NDArray[np.bool_], list[tuple[str, int]]]]:
    """Places by the queries that have a figure there."""
    groups: dict[bytes, tuple[NDArray[np.bool_], list[tuple[str, int]]]] = {}
    for place, where in known.items():
        groups.setdefault(where.tobytes(), (where, []))[1].append(place)
    return list(groups.values())


def plain(ends: tuple[NDArray[np.float64], ...]) -> list[tuple[float, ...]]:
    return [tuple(float(end) for end in each) for each in zip(*ends, strict=True)]
