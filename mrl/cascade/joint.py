"""All thresholds at once: the most accurate within a budget of dimensions, or the cheapest that is accurate enough.

Thresholds matter by what they let through: at each level the candidates are 0, the middle between every two
neighbours among the confidences seen, and 1, and a policy is one candidate per level. Left out are those so near to
a confidence seen that it might be on the other side once it is computed in float32. Given all others, one level's best
candidate is found exactly from sums over examples sorted into candidates. Such steps are repeated from many starts
until no single threshold can be improved; then :mod:`~mrl.cascade.branch` looks for what is better still, or proves
that nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .outcomes import Outcomes

Integers = NDArray[np.int64]
Choice: TypeAlias = tuple[int, ...]
"""One candidate per level but the last; a smaller number is a smaller threshold."""

TRADES = 33
"""Starts: the best policies where a right answer is worth so many dimensions, from hardly any to more than all."""


ROUNDS = 4
"""Over all pairs of levels, at most."""

SPREAD, NEARBY = 32, np.array([-64, -16, -4, -1, 0, 1, 4, 16, 64])
"""The sample of candidates that a pair's first threshold tries: so many over its range, and these from where it is."""


class Goal(NamedTuple):
    """Feasible is ``spent <= most`` and ``right >= least``, in totals over the examples.

    Among the feasible, ``accurate`` asks for the most right answers and then the least spent; otherwise for the
    least spent and then the most right. The smallest thresholds win among equals.
    """

    accurate: bool
    most: float
    least: int

    def key(self, right: int, spent: int) -> tuple[int, int]:
        return (-right, spent) if self.accurate else (spent, -right)

    def feasible(self, right: int, spent: int) -> bool:
        return spent <= self.most and right >= self.least


class Found(NamedTuple):
    """A choice with its totals."""

    choice: Choice
    right: int
    spent: int


class Table:
    """The examples in the units of the search: their rank among the candidates of every level."""

    def __init__(self, outcomes: Outcomes, dims: Sequence[int]) -> None:
        self.correct = outcomes.correct.astype(np.int64)
        self.confidence, self.dims = outcomes.confidence[:-1], np.asarray(dims, np.int64)
        self.last, self.examples = len(dims) - 1, outcomes.correct.shape[1]
        self.everyone = np.arange(self.examples)
        self.candidates: list[NDArray[np.float64]] = []
        # An example of rank r is accepted by the candidates below r: those that its confidence is above.
        self.rank = np.zeros((self.last, self.examples), np.int64)
        for g in range(self.last):
            self.candidates.append(clear_thresholds(outcomes.confidence[g], outcomes.rounding))
            confidence = np.where(np.isnan(outcomes.confidence[g]), -1.0, outcomes.confidence[g])
            self.rank[g] = np.searchsorted(self.candidates[g][:-1], confidence, "left")
        cheapest = np.full(self.examples, -1)
        self.cheapest = np.empty((self.last + 1, self.examples), np.int64)  # right level at or above g, or -1
        for g in reversed(range(self.last + 1)):
            cheapest = np.where(self.correct[g] == 1, g, cheapest)
            self.cheapest[g] = cheapest

    def thresholds(self, choice: Choice) -> tuple[float, ...]:
        return tuple(float(values[j]) for values, j in zip(self.candidates, choice, strict=True))

    def nearest(self, thresholds: Sequence[float]) -> Choice:
        """The choice that accepts what ``thresholds`` do, or as much of it as a candidate can."""
        accepts = [(c > t) & (t < 1) for c, t in zip(self.confidence, thresholds, strict=True)]
        return tuple(int(rank[~accepted].max(initial=0)) for rank, accepted in zip(self.rank, accepts, strict=True))

    def levels(self, choice: Choice) -> Integers:
        level = np.full(self.examples, self.last)
        for g in reversed(range(self.last)):
            level[self.rank[g] > choice[g]] = g
        return level

    def evaluate(self, choice: Choice) -> Found:
        level = self.levels(choice)
        right = int(np.take_along_axis(self.correct, level[None], 0).sum())
        return Found(choice, right, int(self.dims[level].sum()))

    def along(self, choice: Choice, g: int) -> tuple[Integers, Integers, Integers]:
        """Totals of all examples for every useful candidate of level ``g``, the other levels as chosen."""
        level = self.levels((*choice[:g], len(self.candidates[g]) - 1, *choice[g + 1 :]))
        rights, spents = self.correct[level, self.everyone], self.dims[level]
        reach = np.flatnonzero(level > g)  # a level before accepts the others
        useful, right, spent = self.line(g, reach, rights[reach], spents[reach])
        return useful, right + rights[level < g].sum(), spent + spents[level < g].sum()

    def line(self, g: int, rows: Integers, right: Integers, spent: Integers) -> tuple[Integers, Integers, Integers]:
        """Totals of ``rows``, which reach level ``g``, for every candidate there that makes a difference.

        ``right`` and ``spent`` are what the rows come to if this level lets them go.
        """
        rank, size = self.rank[g, rows], len(self.candidates[g])
        useful = np.unique(np.append(rank, 0))
        # Accepted are the ranks above a candidate: sums from the end.
        gained = np.bincount(rank, self.correct[g, rows] - right, size + 1)
        saved = np.bincount(rank, self.dims[g] - spent, size + 1)
        above = [np.append(np.cumsum(x[::-1])[::-1], 0.0)[useful + 1].astype(np.int64) for x in (gained, saved)]
        return useful, int(right.sum()) + above[0], int(spent.sum()) + above[1]


def clear_thresholds(confidence: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    """Ascending: one threshold for every split of ``confidence`` that is ``rounding`` away from all of it, and 1."""
    seen = np.unique(np.clip(confidence[~np.isnan(confidence)], 0.0, 1.0))
    lowest = [0.0] if not len(seen) or seen[0] >= rounding else []
    middles = (seen[:-1] + seen[1:]) / 2
    return np.concatenate((lowest, middles[np.diff(seen) >= 2 * rounding], [1.0]))


def pick(goal: Goal, rights: Integers, spents: Integers) -> int:
    """The place of the best of some totals; of the least infeasible where none is feasible. The first of equals."""
    over, under = np.maximum(spents - goal.most, 0), np.maximum(goal.least - rights, 0)
    first, second = (-rights, spents) if goal.accurate else (spents, -rights)
    return int(np.lexsort((np.arange(len(rights)), second, first, under, over))[0])


def climb(table: Table, goal: Goal, start: Choice, *, worth: float | None = None) -> Found:
    """Improve one threshold at a time, each exactly, until none can be.

    With ``worth`` for ``worth * right - spent``, and no constraint.
    """
    choice, best = start, None
    while True:
        for g in range(table.last):
            useful, rights, spents = table.along(choice, g)
            j = pick(goal, rights, spents) if worth is None else int(np.argmax(worth * rights - spents))
            choice = (*choice[:g], int(useful[j]), *choice[g + 1 :])
        found = table.evaluate(choice)
        value = value_of(goal, found, worth)
        if best is not None and value >= best[0]:
            return found if value == best[0] else best[1]
        best = (value, found)


def climb_in_pairs(table: Table, goal: Goal, start: Found) -> Found:
    """Move one threshold, answer with another exactly, and climb from there, for a few rounds while that improves.

    At the edge of a budget no threshold may fall unless another rises. The first of a pair tries a sample of its
    candidates, near where it is and over the whole range.
    """
    best = start
    for _ in range(ROUNDS):
        improved = best
        for g in range(table.last):
            top = len(table.candidates[g]) - 1
            sample = np.append(np.linspace(0, top, SPREAD).astype(np.int64), improved.choice[g] + NEARBY)
            for j in np.unique(np.clip(sample, 0, top)):
                for h in range(table.last):
                    if h == g:
                        continue
                    moved = (*improved.choice[:g], int(j), *improved.choice[g + 1 :])
                    useful, rights, spents = table.along(moved, h)
                    k = pick(goal, rights, spents)
                    found = Found((*moved[:h], int(useful[k]), *moved[h + 1 :]), int(rights[k]), int(spents[k]))
                    if value_of(goal, found, None) < value_of(goal, improved, None):
                        improved = found
        improved = climb(table, goal, improved.choice)
        if value_of(goal, improved, None) >= value_of(goal, best, None):
            break
        best = improved
    return best


def search(table: Table, goal: Goal, starts: Sequence[Choice]) -> Found:
    """The best that climbing reaches: from given starts, from extremes, and from fair trades of answers for dims."""
    never = tuple(len(values) - 1 for values in table.candidates)
    extremes = [tuple(0 if h == g else top for h, top in enumerate(never)) for g in range(table.last)]
    points: dict[Choice, None] = dict.fromkeys([*starts, never, (0,) * table.last, *extremes])
    points.update(dict.fromkeys(trades(table, goal, never)))
    best = min((climb(table, goal, point) for point in points), key=lambda found: value_of(goal, found, None))
    return climb_in_pairs(table, goal, best)


def trades(table: Table, goal: Goal, never: Choice) -> Iterator[Choice]:
    worths = np.geomspace(table.dims[0] / 2, 100 * table.dims[-1], TRADES)
    for choice, order in ((never, worths[::-1]), ((0,) * table.last, worths)):
        for worth in order:
            choice = climb(table, goal, choice, worth=float(worth)).choice
            yield choice


def value_of(goal: Goal, found: Found, worth: float | None) -> tuple[float, ...]:
    if worth is not None:
        return (found.spent - worth * found.right,)
    over, under = max(found.spent - goal.most, 0), max(goal.least - found.right, 0)
    return (over, under, *goal.key(found.right, found.spent), *found.choice)


def most_spent(dim: float, examples: int) -> int:
    """The largest total whose mean, as a float, is at most ``dim``."""
    total = math.floor(dim * examples) + 1
    while total / examples > dim:
        total -= 1
    return total


def least_right(target: float, examples: int) -> int:
    """The smallest count whose share, as a float, is at least ``target``."""
    count = max(math.ceil(target * examples) - 1, 0)
    while count / examples < target:
        count += 1
    return count
