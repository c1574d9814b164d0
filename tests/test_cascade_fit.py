"""Fitting: the paper's policy worked by hand and against its notebook's loops, and joint thresholds by brute force."""

import itertools
import json

import numpy as np
import pytest
from cascade_cases import softmax_outputs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mrl
from mrl.cascade import branch
from mrl.cascade.joint import Goal, Table, climb, least_right, most_spent, search
from mrl.cascade.outcomes import Outcomes, accepted_level, right_at
from mrl.dispatch import backend_named

# Two classes; every row says how sure the level is of class 0, and the truth is class 0 throughout.
SURE = [
    # level 1: right when above 0.5
    [0.95, 0.80, 0.25, 0.40, 0.60],
    # level 2
    [0.90, 0.30, 0.70, 0.80, 0.45],
    # level 3: always right
    [0.90, 0.90, 0.90, 0.90, 0.90],
]
BY_HAND = np.stack([np.array(SURE), 1 - np.array(SURE)], -1)
"""Confidences of level 1: 0.95, 0.80, 0.75 (wrong), 0.60 (wrong), 0.60; level 2 is right about rows 1, 3 and 4.

* Levels 1 and 2: rows 1, 2 and 5 are right at level 1; rows 1, 3 and 4 at level 2. A threshold in [0.75, 0.80) keeps
  rows 1 and 2 and sends on 3, 4 and 5: right about 1, 2, 3 and 4, which is 4 of 5. In [0.60, 0.75) row 3 stays,
  wrong: 3 of 5 with row 5 sent on; below 0.60 rows 1, 2 and 5: 3 of 5. So 4 of 5 is best, and the smallest threshold
  of the grid at or above 0.75 is 0.1 + 72 * 0.9 / 99 = 0.7545... (71 gives 0.74545).
* Levels 2 and 3: level 3 is always right, so rows 2 (confidence 0.70, wrong) and 5 (0.55, wrong) must be sent on: at or
  above 0.70. The smallest of the grid is 0.1 + 66 * 0.9 / 99 = 0.7.
"""


def test_greedy_by_hand() -> None:
    policy = mrl.fit_cascade(BY_HAND, np.zeros(5, int), mrl.Nesting((2, 4, 8)))
    grid = np.linspace(0.1, 1, 100)
    first = 0.1 + 72 * 0.9 / 99
    assert policy.thresholds[0] == pytest.approx(first, abs=1e-12) and policy.thresholds[0] in grid
    second = policy.thresholds[1]
    assert second in grid and second - 0.9 / 99 < 1 - SURE[1][1] <= second < SURE[1][3]
    fitted = dict(policy.fitted)
    # Row 1 and 2 leave at level 1. Of 3, 4 and 5 level 2 is sure of 0.70, 0.80 and 0.55: only row 4 leaves there.
    assert fitted == {
        "method": "greedy",
        "examples": 5,
        "accuracy": 1.0,
        "expected_dim": (2 + 2 + 8 + 4 + 8) / 5,
        "full_accuracy": 1.0,
    }


def notebook_thresholds(probabilities, labels):
    """The loops of the paper's notebook, written again."""
    confidence, answers = probabilities.max(-1), probabilities.argmax(-1)
    found = []
    for small in range(len(probabilities) - 1):
        grid, accuracy = np.linspace(0.1, 1, 100), []
        for t in grid:
            stays = confidence[small] > t
            predicted = np.where(stays, answers[small], answers[small + 1])
            accuracy.append(int((predicted == labels).sum()))
        found.append(min(grid[np.array(accuracy) == max(accuracy)]))
    return found


def notebook_evaluation(probabilities, labels, thresholds, dims):
    right, spent = 0, 0.0
    for i in range(len(labels)):
        chosen = len(dims) - 1
        for g, t in enumerate(thresholds):
            if probabilities[g, i].max() > t:
                chosen = g
                break
        right += probabilities[chosen, i].argmax() == labels[i]
        spent += dims[chosen]
    return right / len(labels), spent / len(labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_the_notebook(dtype: str, seed: int) -> None:
    probabilities, labels = softmax_outputs(600, 5, seed=seed)
    probabilities, dims = probabilities.astype(dtype), (8, 16, 32, 64, 128)
    policy = mrl.fit_cascade(probabilities[:, :300], labels[:300], mrl.Nesting(dims))
    assert list(policy.thresholds) == notebook_thresholds(probabilities[:, :300], labels[:300])
    test = probabilities[:, 300:], labels[300:]
    for levels in range(1, 6):  # stopped early, too
        capped = policy.capped(levels)
        accuracy, dim = notebook_evaluation(test[0], test[1], capped.thresholds, dims[:levels])
        report = mrl.cascade_report(test[0][:levels], test[1], capped)
        assert report.accuracy.value == accuracy
        assert report.expected_dim.value == pytest.approx(dim, abs=1e-12)


CONFIDENCES = st.sampled_from((0.0, 0.25, 0.5, 0.5, 0.75, 0.9, 1.0, np.nan, 1.0000001, -1e-9))


@st.composite
def tiny(draw: st.DrawFn):
    levels, examples = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    dims = tuple(np.cumsum(draw(st.lists(st.integers(1, 6), min_size=levels, max_size=levels))).tolist())
    confidence = draw(hnp.arrays(np.float64, (levels, examples), elements=CONFIDENCES))
    correct = draw(hnp.arrays(bool, (levels, examples)))
    return dims, confidence, correct


def pool(row) -> list[float]:
    """The thresholds of a level: 1, the middles of two neighbours, and 0; none that is within rounding of a row."""
    seen = sorted({float(min(max(c, 0.0), 1.0)) for c in row if not np.isnan(c)})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(seen)]
    return [t for t in (0.0, *middles) if all(abs(t - c) >= 1e-5 for c in seen)] + [1.0]


def brute_force(dims, confidence, correct, key, feasible):
    """The best of all combinations of thresholds."""
    pools = [pool(row) for row in confidence[:-1]]
    best = None
    for thresholds in itertools.product(*pools):
        level = accepted_level(confidence, thresholds)
        right = right_at(correct & ~np.isnan(confidence), level)
        accuracy, dim = right.sum() / right.size, np.asarray(dims)[level].sum() / right.size
        if feasible(accuracy, dim) and (best is None or (*key(accuracy, dim), thresholds) < best):
            best = (*key(accuracy, dim), thresholds)
    return best


@given(tiny(), st.floats(0.5, 20))
def test_budget_is_the_optimum(problem, dim: float) -> None:
    dims, confidence, correct = problem
    best = brute_force(dims, confidence, correct, lambda a, d: (-a, d), lambda a, d: d <= dim)
    if best is None:
        with pytest.raises(ValueError, match=f"dim: expected a budget that some policy keeps, got {dim}"):
            mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="budget", dim=dim)
        return
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="budget", dim=dim)
    fitted = dict(policy.fitted)
    assert (-fitted["accuracy"], fitted["expected_dim"], policy.thresholds) == best
    assert fitted["exact"] is True


@given(tiny(), st.floats(0, 1) | st.sampled_from((1 / 3, 0.5, 2 / 3, 1.0)))
def test_accuracy_is_the_optimum(problem, target: float) -> None:
    dims, confidence, correct = problem
    best = brute_force(dims, confidence, correct, lambda a, d: (d, -a), lambda a, d: a >= target)
    if best is None:
        with pytest.raises(ValueError, match=r"target: .* the largest accuracy within reach is"):
            mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="accuracy", target=target)
        return
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="accuracy", target=target)
    fitted = dict(policy.fitted)
    assert (fitted["expected_dim"], -fitted["accuracy"], policy.thresholds) == best
    assert fitted["exact"] is True


@given(tiny(), st.sampled_from((0.0, 1 / 6, 0.2, 1 / 3, 0.5, 0.999)) | st.floats(0, 1, exclude_max=True))
def test_a_drop_below_the_full_model_is_the_optimum(problem, drop: float) -> None:
    """And always within reach: at worst it is the last level alone."""
    dims, confidence, correct = problem
    examples, full = correct.shape[1], int((correct[-1] & ~np.isnan(confidence[-1])).sum())
    best = brute_force(
        dims, confidence, correct, lambda a, d: (d, -a), lambda a, _: (full - round(a * examples)) / examples <= drop
    )
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="accuracy", drop=drop)
    fitted = dict(policy.fitted)
    assert (fitted["expected_dim"], -fitted["accuracy"], policy.thresholds) == best
    assert fitted["exact"] is True and fitted["drop"] == drop and "target" not in fitted
    if drop == 0:
        assert fitted["accuracy"] >= fitted["full_accuracy"]


def test_a_drop_is_counted_in_examples() -> None:
    """0.768 - 0.01 is above 0.758 in float64, and ten of a thousand are no more than a hundredth."""
    confidence = np.full((2, 1000), 0.9)
    correct = np.arange(1000) < np.array([[758], [768]])
    for drop, dim in ((0.01, 1), (0.0099, 2), (0.0, 2)):
        policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((1, 2)), method="accuracy", drop=drop)
        assert dict(policy.fitted)["expected_dim"] == dim


def test_four_levels_are_the_optimum_too() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        confidence, correct = rng.random((4, 9)).round(2), rng.random((4, 9)) < [[0.4], [0.5], [0.7], [0.8]]
        dims = (1, 2, 4, 8)
        best = brute_force(dims, confidence, correct, lambda a, d: (-a, d), lambda a, d: d <= 3)
        policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting(dims), method="budget", dim=3)
        assert policy.thresholds == best[-1]


def test_a_search_at_its_limit_keeps_its_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch, "MOST_NODES", 3)
    probabilities, labels = softmax_outputs(400, 5)
    nesting = mrl.Nesting((8, 16, 32, 64, 128))
    policy = mrl.fit_cascade(probabilities, labels, nesting, method="budget", dim=30)
    fitted = dict(policy.fitted)
    assert fitted["exact"] is False and fitted["expected_dim"] <= 30
    # Better than the pairs of the paper at no greater cost, and no single threshold can be improved.
    greedy = dict(mrl.fit_cascade(probabilities, labels, nesting).fitted)
    joint = mrl.fit_cascade(probabilities, labels, nesting, method="budget", dim=greedy["expected_dim"])
    assert dict(joint.fitted)["accuracy"] >= greedy["accuracy"]
    assert dict(joint.fitted)["expected_dim"] <= greedy["expected_dim"]
    outcomes = Outcomes(probabilities.max(-1), probabilities.argmax(-1) == labels)
    for g in range(4):
        for t in pool(outcomes.confidence[g]):
            level = accepted_level(outcomes.confidence, (*policy.thresholds[:g], t, *policy.thresholds[g + 1 :]))
            dim, accuracy = np.asarray(nesting.dims)[level].mean(), right_at(outcomes.correct, level).mean()
            assert dim > 30 or accuracy <= fitted["accuracy"]


def test_pairs_find_what_single_steps_do_not() -> None:
    """At the edge of a budget one threshold must rise for another to fall."""
    gains = 0
    for seed in range(4):
        probabilities, labels = softmax_outputs(300, 5, seed=seed)
        outcomes = Outcomes(probabilities.max(-1), probabilities.argmax(-1) == labels)
        table = Table(outcomes, (8, 16, 32, 64, 128))
        goal = Goal(True, most_spent(25, 300), 0)
        found = search(table, goal, [])
        single = climb(table, goal, (0,) * 4)
        assert goal.key(found.right, found.spent) <= goal.key(single.right, single.spent)
        gains += goal.key(found.right, found.spent) < goal.key(single.right, single.spent)
    assert gains


@given(st.integers(1, 500), st.floats(0.001, 3000))
def test_totals_agree_with_means_as_floats(examples: int, dim: float) -> None:
    total = most_spent(dim, examples)
    assert total / examples <= dim < (total + 1) / examples
    share = min(dim / 3000, 1.0)
    count = least_right(share, examples)
    assert count / examples >= share and (count == 0 or (count - 1) / examples < share)


def test_a_budget_past_every_level_is_no_limit() -> None:
    probabilities, labels = softmax_outputs(50, 3)
    nesting = mrl.Nesting((8, 16, 32))
    for dim in (1e17, 1e300, 10**30):
        policy = mrl.fit_cascade(probabilities, labels, nesting, method="budget", dim=dim)
        assert policy.thresholds == mrl.fit_cascade(probabilities, labels, nesting, method="budget", dim=32).thresholds


def test_a_target_out_of_reach_names_what_is_within() -> None:
    confidence, correct = np.array([[0.9, 0.2], [0.9, 0.9]]), np.array([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"target: .* got 0\.75; the largest accuracy within reach is 0\.5"):
        mrl.fit_cascade((confidence, correct), None, mrl.Nesting((1, 2)), method="accuracy", target=0.75)
    with pytest.raises(ValueError, match=r"dim: .* got 0\.5; the smallest expected dimension within reach is 1$"):
        mrl.fit_cascade((confidence, correct), None, mrl.Nesting((1, 2)), method="budget", dim=0.5)


@pytest.mark.parametrize("method", [{}, {"method": "budget", "dim": 20}, {"method": "risk", "drop": 0.05}])
def test_every_framework_fits_the_same(backend_name: str, method: dict) -> None:
    probabilities, labels = softmax_outputs(200, 3)
    nesting, make = mrl.Nesting((8, 16, 32)), backend_named(backend_name).from_numpy
    # The same float32 numbers, of which NumPy and the framework find the same confidences.
    single = probabilities.astype(np.float32)
    policy = mrl.fit_cascade(
        make(single, dtype=None, device=None), make(labels.astype(np.int32), dtype=None, device=None), nesting, **method
    )
    assert policy == mrl.fit_cascade(single, labels, nesting, **method)


def test_logits_pairs_and_leading_axes_say_the_same() -> None:
    probabilities, labels = softmax_outputs(60, 3)
    nesting = mrl.Nesting((8, 16, 32))
    policy = mrl.fit_cascade(probabilities, labels, nesting, method="budget", dim=14)
    logits = mrl.fit_cascade(np.log(probabilities), labels, nesting, method="budget", dim=14, logits=True)
    np.testing.assert_allclose(logits.thresholds, policy.thresholds, rtol=1e-12)
    pair = probabilities.max(-1), probabilities.argmax(-1) == labels
    assert mrl.fit_cascade(pair, None, nesting, method="budget", dim=14) == policy
    shaped = probabilities.reshape(3, 6, 10, 5), labels.reshape(6, 10)
    assert mrl.fit_cascade(*shaped, nesting, method="budget", dim=14) == policy


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("temperatures", [None, (0.5, 1.0, 2.0), "fit"])
def test_what_is_fitted_is_what_runs(confidence: str, temperatures) -> None:
    probabilities, labels = softmax_outputs(300, 3)
    nesting = mrl.Nesting((8, 16, 32))
    policy = mrl.fit_cascade(
        probabilities, labels, nesting, method="budget", dim=15, confidence=confidence, temperatures=temperatures
    )
    result = mrl.cascade_exit(probabilities, policy)
    fitted = dict(policy.fitted)
    assert fitted["accuracy"] == np.mean(result.labels == labels)
    assert fitted["expected_dim"] == np.mean(np.asarray(nesting.dims)[result.level]) <= 15
    assert mrl.CascadePolicy.from_json(policy.to_json()) == policy
    json.loads(policy.to_json())


def test_nan_never_accepts_and_counts_as_wrong_at_the_end() -> None:
    probabilities = np.array([[[0.9, 0.1], [np.nan, 0.5]], [[0.6, 0.4], [np.nan, 0.5]]])
    for method in ({}, {"method": "budget", "dim": 1.5}, {"method": "accuracy", "target": 0.5}):
        policy = mrl.fit_cascade(probabilities, np.array([0, 0]), mrl.Nesting((1, 2)), **method)
        assert dict(policy.fitted)["accuracy"] == 0.5
        assert mrl.cascade_exit(probabilities, policy).labels.tolist() == [0, -1]


def test_one_level_and_one_class() -> None:
    for method in (
        {},
        {"method": "budget", "dim": 4},
        {"method": "accuracy", "target": 1},
        {"method": "risk", "drop": 0.1},
    ):
        single = mrl.fit_cascade(np.ones((1, 3, 1)), np.zeros(3, int), mrl.Nesting((4,)), **method)
        assert single.thresholds == () and dict(single.fitted)["expected_dim"] == 4
    many = mrl.fit_cascade(np.ones((2, 3, 1)), np.zeros(3, int), mrl.Nesting((4, 8)), method="budget", dim=4)
    assert many.thresholds == (0.0,)
