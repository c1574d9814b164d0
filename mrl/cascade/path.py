"""A path of policies from careful to cheap, to be tested in that order: the joint search at rising allowances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .joint import Choice, Goal, Table, climb, most_spent, trades, value_of
from .outcomes import Outcomes

HALVINGS = 6
"""So often ``1 - t`` is halved of the policy that harms none of its examples: a path begins where it surely passes."""

ALLOWANCES, FURTHEST, LEAST = 40, 3.0, 0.01
"""So many allowances of harm, up to so many times the drop, or to this share of the examples: gains make up for it."""

NEAREST = 4
"""Climbs begin from so many of the points that come nearest to an allowance, and from the policy before."""


def careful_to_cheap(outcomes: Outcomes, dims: Sequence[int], drop: float) -> list[tuple[float, ...]]:
    """Thresholds of policies, each the cheapest found that harms at most so many examples, for rising allowances.

    An example is harmed if the last level alone is right and the cascade is not. Harm is what is allowed, and not the
    accuracy lost, because answers that get better on these examples often got so by luck, and what is searched for
    harm alone is near the same policy with the next examples.

    Source: arXiv 2110.01052, appendix (a path found on other data than its tests).
    """
    examples = outcomes.correct.shape[1]
    if not examples:
        return []
    harmless = outcomes.correct | ~outcomes.correct[-1]
    table = Table(outcomes._replace(correct=harmless), dims)
    furthest = most_spent(max(FURTHEST * drop, LEAST), examples)
    choices = list(_choices(table, np.unique(np.linspace(0, furthest, ALLOWANCES).astype(int)).tolist()))
    found = [table.thresholds(choice) for choice in choices]
    careful = [tuple(1 - (1 - t) * 0.5**j for t in found[0]) for j in range(HALVINGS, 0, -1)]
    return list(dict.fromkeys([*careful, *found]))


def _choices(table: Table, allowances: Sequence[int]) -> Iterator[Choice]:
    never = tuple(len(values) - 1 for values in table.candidates)
    points = dict.fromkeys([never, (0,) * table.last, *trades(table, Goal(False, float("inf"), 0), never)])
    known = [table.evaluate(point) for point in points]
    before = never
    for allowed in allowances:
        goal = Goal(False, float("inf"), table.examples - allowed)
        near = sorted(known, key=lambda found: value_of(goal, found, None))[:NEAREST]
        reached = [climb(table, goal, start) for start in dict.fromkeys([before, *(found.choice for found in near)])]
        before = min(reached, key=lambda found: value_of(goal, found, None)).choice
        yield before
