"""The guarantee of a split: what is tested was found on other examples, and the true drop is known by simulation."""

import numpy as np
import pytest
from scipy import stats

import mrl
from mrl.cascade import risk
from mrl.cascade.outcomes import Outcomes, accepted_level, right_at
from mrl.cascade.path import careful_to_cheap

DIMS, DELTA = (4, 16, 64, 256), 0.1
DRAWS, EXAMPLES, DROP = 60, 500, 0.03
ALLOWED = stats.binom.ppf(0.999, DRAWS, DELTA)


def alone(rng: np.random.Generator, examples: int) -> Outcomes:
    """Levels differ in how sure they are, and each is right as often as it says; the last is right at 0.9."""
    u = rng.random((3, examples))
    correct = np.concatenate([rng.random((3, examples)) < 0.55 + 0.44 * u, rng.random((1, examples)) < 0.9])
    return Outcomes(np.concatenate([u ** np.array([[0.5], [1.0], [3.0]]), np.ones((1, examples))]), correct)


def one_luck(rng: np.random.Generator, examples: int) -> Outcomes:
    """The same luck at all levels: harm and no gain."""
    outcomes, luck = alone(rng, examples), rng.random(examples)
    chance = np.concatenate([0.5 + 0.48 * outcomes.confidence[:3], np.full((1, examples), 0.97)])
    return outcomes._replace(correct=luck < chance)


def against_each_other(rng: np.random.Generator, examples: int) -> Outcomes:
    """A level is sure, and wrong, where the others are right; where one is right by luck the last is wrong."""
    u = rng.random(examples)
    confidence = np.stack([u, (u + 1 / 3) % 1, (u + 2 / 3) % 1, np.ones(examples)])
    wrong = rng.integers(0, 3, examples)
    harmed = (confidence[:3] > 0.5) & (np.arange(3)[:, None] == wrong) & (rng.random(examples) < 0.4)
    full = rng.random(examples) < 0.93
    return Outcomes(confidence, np.concatenate([np.where(harmed, ~full, full | (u > 0.97)), full[None]]))


def a_cliff(rng: np.random.Generator, examples: int) -> Outcomes:
    """No harm above a threshold, and just below it so much that the drop is passed at once."""
    u = rng.random((3, examples))
    fine = (u > 0.6) | (u < 0.5)
    return Outcomes(np.concatenate([u, np.ones((1, examples))]), np.concatenate([fine, np.ones((1, examples), bool)]))


WORLDS = (alone, one_luck, against_each_other, a_cliff)
TRUTH = {world: world(np.random.default_rng(99), 50_000) for world in WORLDS}


def true_drop(world, thresholds) -> float:
    outcomes = TRUTH[world]
    right = right_at(outcomes.correct, accepted_level(outcomes.confidence, thresholds))
    return float(outcomes.correct[-1].mean() - right.mean())


@pytest.mark.parametrize("world", WORLDS)
def test_the_drop_is_larger_less_often_than_delta(world) -> None:
    count, mistaken, dims = 0, 0, []
    for seed in range(DRAWS):
        outcomes = world(np.random.default_rng(seed), EXAMPLES)
        half = outcomes.rows(np.arange(EXAMPLES // 2)), outcomes.rows(np.arange(EXAMPLES // 2, EXAMPLES))
        path = careful_to_cheap(half[0], DIMS, DROP)
        tested = risk.tested_in_order(half[1], path, DROP, DELTA)
        count += true_drop(world, tested.thresholds) > DROP
        dims.append(np.asarray(DIMS)[accepted_level(outcomes.confidence, tested.thresholds)].mean())
        # A mutant: the last that loses as little on the examples that it was found on.
        full, lost = half[0].correct[-1], []
        for thresholds in path:
            right = right_at(half[0].correct, accepted_level(half[0].confidence, thresholds))
            lost.append(full.mean() - right.mean() <= DROP)
        mistaken += true_drop(world, path[np.flatnonzero(lost)[-1]]) > DROP
    assert count <= ALLOWED
    # Not by answering with the last level, unless every level is wrong where it is sure.
    assert np.mean(dims) < (0.95 if world is against_each_other else 0.8) * DIMS[-1]
    assert mistaken > ALLOWED


def test_a_path_that_is_bad_from_its_first_policy_passes_less_often_than_delta() -> None:
    """Whatever comes after: 40 policies at the limit, each wrong about other examples, are one test and not 40."""
    passed, rng = 0, np.random.default_rng(0)
    thresholds = [tuple(0.5 if g == h else 1.0 for g in range(40)) for h in range(40)]
    for _ in range(300):
        right = np.concatenate([rng.random((40, 600)) >= DROP, np.ones((1, 600), bool)])
        outcomes = Outcomes(np.full((41, 600), 0.9), right)
        passed += risk.tested_in_order(outcomes, thresholds, DROP, DELTA).passed > 0
    assert 0 < passed <= stats.binom.ppf(0.9999, 300, DELTA)


def test_a_path_goes_from_careful_to_cheap() -> None:
    outcomes = alone(np.random.default_rng(0), 800)
    path = careful_to_cheap(outcomes, DIMS, DROP)
    assert len(path) == len(set(path)) > 20
    full, spent, harms = outcomes.correct[-1], [], []
    for thresholds in path:
        level = accepted_level(outcomes.confidence, thresholds)
        spent.append(np.asarray(DIMS)[level].mean())
        harms.append(int((full & ~right_at(outcomes.correct, level)).sum()))
    assert harms[6] == 0 and max(harms) <= 3 * DROP * 800
    assert spent[0] > 0.9 * DIMS[-1] and spent == sorted(spent, reverse=True)
    assert careful_to_cheap(outcomes.rows(np.arange(0)), DIMS, DROP) == []
    one = Outcomes(outcomes.confidence[-1:], outcomes.correct[-1:])
    assert careful_to_cheap(one, DIMS[-1:], DROP) == [()]


def test_levels_that_are_not_equally_sure_need_half_the_dimensions_of_a_shared_threshold() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((3, 4000))
    correct = np.concatenate([u > [[0.3], [0.45], [0.6]], np.ones((1, 4000), bool)])
    sure = u * [[0.5], [0.75], [1.0]]  # of the first level the surest are less sure than some that the third has wrong
    pair, nesting = (np.concatenate([sure, np.ones((1, 4000))]), correct), mrl.Nesting(DIMS)
    shared, apart = (
        dict(mrl.fit_cascade(pair, None, nesting, method="risk", drop=0.01, split=split).fitted)["expected_dim"]
        for split in (None, 0.5)
    )
    assert apart < 0.5 * shared


def test_the_record_and_the_seed() -> None:
    outcomes = alone(np.random.default_rng(3), 2000)
    pair, nesting = (outcomes.confidence, outcomes.correct), mrl.Nesting(DIMS)

    def fit(**options) -> mrl.CascadePolicy:
        return mrl.fit_cascade(pair, None, nesting, method="risk", drop=DROP, **options)

    policy = fit()
    assert policy == fit(split=0.5, seed=0) != fit(seed=1)
    assert mrl.CascadePolicy.from_json(policy.to_json()) == policy
    fitted = dict(policy.fitted)
    assert (fitted["split"], fitted["seed"], fitted["examples"], fitted["tested"]) == (0.5, 0, 2000, 1000)
    assert fitted["passed"] > 0 and fitted["p_value"] <= fitted["delta"] == 0.05 and fitted["test"] == "paired"
    assert dict(fit(split=0.8).fitted)["tested"] == 400
    whole = dict(fit(split=None).fitted)
    assert whole["split"] is None and whole["tested"] == 2000


@pytest.mark.parametrize("examples", [1, 2, 3, 20])
def test_too_few_examples_give_the_full_model(examples: int) -> None:
    pair = np.full((2, examples), 0.9), np.ones((2, examples), bool)
    policy = mrl.fit_cascade(pair, None, mrl.Nesting((1, 2)), method="risk", drop=0.01)
    assert policy.thresholds == (1.0,) and dict(policy.fitted)["passed"] == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": 1.0}, ValueError, "split: expected a share between 0 and 1, got 1.0; None tests on all examples"),
        ({"split": True}, TypeError, "split: expected a number or None, got True"),
        ({"split": "half"}, TypeError, "split: expected a number or None, got 'half'"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer"),
        ({"method": "greedy", "drop": None, "split": 0.3}, TypeError, "split: .* it belongs to method='risk'"),
        ({"method": "accuracy", "seed": 3}, TypeError, "seed: expected nothing with method='accuracy', got 3"),
    ],
)
def test_a_split_that_is_none_is_refused(options, error, message) -> None:
    pair = np.full((2, 10), 0.9), np.ones((2, 10), bool)
    with pytest.raises(error, match=message):
        mrl.fit_cascade(pair, None, mrl.Nesting((1, 2)), **{"method": "risk", "drop": 0.1, **options})
