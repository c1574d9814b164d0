"""The proof that no other thresholds are better: from the worst start, against all of them, and at its limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl.cascade import branch
from mrl.cascade.branch import prove
from mrl.cascade.joint import Found, Goal, Table
from mrl.cascade.outcomes import Outcomes


def small_table(seed: int, levels: int, examples: int, coarse: bool) -> Table:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 5, (levels, examples)) / 5 if coarse else rng.random((levels, examples))
    confidence[rng.random(confidence.shape) < 0.1] = np.nan
    correct = rng.random((levels, examples)) < np.linspace(0.3, 0.8, levels)[:, None]
    return Table(Outcomes(confidence, correct & ~np.isnan(confidence)), np.cumsum(rng.integers(1, 9, levels)).tolist())


def every_choice(table: Table) -> list[Found]:
    return [table.evaluate(choice) for choice in itertools.product(*(range(len(c)) for c in table.candidates))]


def goals(table: Table, share: float) -> tuple[Goal, Goal]:
    """A budget and an accuracy, somewhere in what there is."""
    least, most = int(table.dims[0]) * table.examples, int(table.dims[-1]) * table.examples
    return (
        Goal(True, least + int(share * (most - least)), 0),
        Goal(False, float("inf"), int(share * table.examples)),
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 7), st.booleans(), st.floats(0, 1))
def test_the_best_is_found_from_the_worst(seed: int, levels: int, examples: int, coarse: bool, share: float) -> None:
    """A search that starts near the best would hide a bound that is none."""
    table = small_table(seed, levels, min(examples, 9 - levels), coarse)
    choices = every_choice(table)
    for goal in goals(table, share):
        feasible = [found for found in choices if goal.feasible(found.right, found.spent)]
        best, worst = (
            pick(feasible, key=lambda found: (goal.key(found.right, found.spent), found.choice), default=None)
            for pick in (min, max)
        )
        if best is not None:
            assert prove(table, goal, worst) == (best, True)
            assert prove(table, goal, best) == (best, True)
        lost = next((found for found in choices if not goal.feasible(found.right, found.spent)), None)
        if lost is not None:  # a start that is not feasible is none
            assert prove(table, goal, lost)[0] == (best or lost)


@pytest.mark.parametrize(("accurate", "most"), [(True, 191), (False, 66)])
def test_bounds_leave_most_out(accurate: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A looser bound is right, too, and of less use: of 2991 partial choices so many are looked at, and no more."""
    seen, visit = [], branch._visit
    monkeypatch.setattr(branch, "_visit", lambda *args: (seen.append(args[1]), visit(*args))[1])
    for seed in range(20):
        table = small_table(seed, 4, 12, coarse=False)
        never = table.evaluate(tuple(len(c) - 1 for c in table.candidates))
        prove(table, goals(table, 0.4)[0 if accurate else 1], never)
    assert len(seen) <= most


@pytest.mark.parametrize("accurate", [True, False])
def test_a_reached_limit_says_so(accurate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes and the examples in them are counted one by one: at the limit it is complete, and one before it is not."""
    table = small_table(3, 4, 30, coarse=False)
    goal = goals(table, 0.5)[0 if accurate else 1]
    start = table.evaluate((0,) * 3 if accurate else tuple(len(c) - 1 for c in table.candidates))
    seen, visit = [], branch._visit
    monkeypatch.setattr(branch, "_visit", lambda *args: (seen.append((len(args[1]), len(args[2]))), visit(*args))[1])
    best, complete = prove(table, goal, start)
    inner = [rows for depth, rows in seen if depth < table.last]
    assert complete and len(inner) > 10
    for limit, count in (("MOST_NODES", len(inner)), ("MOST_VISITS", sum(inner))):
        with monkeypatch.context() as patch:
            patch.setattr(branch, limit, count)
            assert prove(table, goal, start) == (best, True)
            for fewer in (count - 1, count // 2, 0):
                patch.setattr(branch, limit, fewer)
                found, complete = prove(table, goal, start)
                assert not complete and goal.feasible(found.right, found.spent)
                assert found == table.evaluate(found.choice)
                assert goal.key(found.right, found.spent) <= goal.key(start.right, start.spent)
