"""Branch and bound over the thresholds of a cascade, small levels first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .joint import Choice, Found, Goal, Integers, Table, climb

MOST_NODES, MOST_VISITS = 20_000, 12_000_000
"""Where a search stops without a proof: nodes, and examples looked at in all of them. No clock decides."""


@dataclass
class Search:
    """What a search has found and spent so far."""

    table: Table
    goal: Goal
    best: Found | None
    nodes: int = 0
    visits: int = 0
    complete: bool = True


def prove(table: Table, goal: Goal, start: Found) -> tuple[Found, bool]:
    """The best choice, and whether that is proved: otherwise the search stopped at its limit.

    Examples that a partial choice leaves undecided are bounded as if each could pick its level freely: all cost
    the next level at least, and those right at a later one only cost the difference, cheapest first.
    """
    state = Search(table, goal, start if goal.feasible(start.right, start.spent) else None)
    _visit(state, (), np.arange(table.examples), 0, 0)
    best = state.best or start
    return (best if state.complete else climb(table, goal, best.choice)), state.complete


def _visit(state: Search, prefix: Choice, rows: Integers, right: int, spent: int) -> None:
    table, g = state.table, len(prefix)
    if g == table.last:
        _offer(state, Found(prefix, right + int(table.correct[g, rows].sum()), spent + len(rows) * int(table.dims[g])))
        return
    state.nodes += 1
    state.visits += len(rows)
    if state.nodes > MOST_NODES or state.visits > MOST_VISITS:
        state.complete = False
        return
    if g == table.last - 1:  # nothing is left to choose after this level: its totals are exact
        later = table.correct[table.last, rows]
        useful, rights, spents = table.line(g, rows, later, np.full(len(rows), table.dims[table.last]))
        rights, spents = rights + right, spents + spent
        fits = np.flatnonzero((spents <= state.goal.most) & (rights >= state.goal.least))
        if len(fits):
            keys = (-rights[fits], spents[fits]) if state.goal.accurate else (spents[fits], -rights[fits])
            j = fits[np.lexsort((fits, keys[1], keys[0]))[0]]
            _offer(state, Found((*prefix, int(useful[j])), int(rights[j]), int(spents[j])))
        return
    useful, first, second = _bounds(state, g, rows, right, spent)
    rank = table.rank[g, rows]
    for place in np.lexsort((useful, second, first)):
        j = int(useful[place])
        if not np.isfinite(first[place]):
            return  # it does not fit, and neither do those after it
        if not _promising(state, (first[place], second[place]), (*prefix, j)):
            if state.best is None or first[place] > _key(state)[0]:
                return  # and neither are those after it
            continue
        out = rows[rank > j]
        gained, cost = int(table.correct[g, out].sum()), len(out) * int(table.dims[g])
        _visit(state, (*prefix, j), rows[rank <= j], right + gained, spent + cost)
        if not state.complete:
            return


def _bounds(
    state: Search, g: int, rows: Integers, right: int, spent: int
) -> tuple[Integers, NDArray[np.float64], NDArray[np.float64]]:
    """For every useful candidate of level ``g``: no choice after it has a smaller key. Infinite where none fits."""
    table, goal = state.table, state.goal
    rank, size = table.rank[g, rows], len(table.candidates[g]) + 1
    useful = np.unique(np.append(rank, 0))
    total = np.bincount(rank, minlength=size).cumsum()[useful]  # undecided after the candidate
    gained = np.bincount(rank, table.correct[g, rows], size)
    rights = right + (gained.sum() - gained.cumsum()[useful])
    spents = spent + (len(rows) - total) * table.dims[g] + total * table.dims[g + 1]
    cheapest = table.cheapest[g + 1, rows]
    offers = []  # how many more could be right at level h, and what each of these costs on top
    for h in range(g + 1, table.last + 1):
        count = np.bincount(rank[cheapest == h], minlength=size).cumsum()[useful]
        offers.append((count.astype(np.float64), float(table.dims[h] - table.dims[g + 1])))
    # What is worse than the best so far is of no interest, so its totals are limits too.
    best = state.best
    most = goal.most if best is None or goal.accurate else min(goal.most, best.spent)
    least = goal.least if best is None or not goal.accurate else max(goal.least, best.right)
    left = most - spents
    reached, needed, cost = rights.astype(np.float64), np.maximum(least - rights, 0.0), spents.astype(np.float64)
    for count, extra in offers:
        take = count if extra == 0 else np.clip(np.floor(left / extra), 0, count)
        reached, left = reached + take, left - take * extra
        forced = np.minimum(needed, count)
        needed, cost = needed - forced, cost + forced * extra
    # What is spent already is part of the cost, and what no offer makes right is not reached.
    hopeless = (cost > most) | (reached < least)
    first, second = (-reached, cost) if goal.accurate else (cost, -reached)
    return useful, np.where(hopeless, np.inf, first), np.where(hopeless, np.inf, second)


def _key(state: Search) -> tuple[int, int]:
    assert state.best is not None
    return state.goal.key(state.best.right, state.best.spent)


def _promising(state: Search, bound: tuple[float, float], prefix: Choice) -> bool:
    """Whether something after ``prefix`` can beat the best: by its key, or as good with smaller thresholds."""
    if state.best is None:
        return True
    key = _key(state)
    return bound < key or (bound == key and prefix <= state.best.choice[: len(prefix)])


def _offer(state: Search, found: Found) -> None:
    if not state.goal.feasible(found.right, found.spent):
        return
    key = (*state.goal.key(found.right, found.spent), found.choice)
    if state.best is None or key < (*_key(state), state.best.choice):
        state.best = found
