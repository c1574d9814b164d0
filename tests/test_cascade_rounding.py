"""What is fitted in float64 holds where it runs: in every backend, in float32."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mrl
from mrl import spec
from mrl.cascade import risk
from mrl.cascade.joint import clear_thresholds
from mrl.cascade.outcomes import ROUNDING, Outcomes
from mrl.dispatch import backend_named

KINDS = ("probability", "margin", "entropy")


def run(backend_name: str, logits, policy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    result = mrl.cascade_exit(mrl.convert(logits, backend_name), policy, logits=True)
    return tuple(np.asarray(backend_named(backend_name).to_numpy(x, blocking=True)) for x in result)


def float32_logits(seed: int, *, examples: int = 500, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Three levels, each better than the one before, the surest of them at 1 but for a rounding."""
    rng = np.random.default_rng(seed)
    labels, levels = rng.integers(0, classes, examples), []
    for g in range(3):
        level = rng.normal(size=(examples, classes))
        level[np.arange(examples), labels] += 1 + g
        levels.append(level * np.exp(rng.normal(size=(examples, 1))) * 2)
    return np.stack(levels).astype(np.float32), labels


@pytest.mark.parametrize("kind", KINDS)
def test_constraints_hold_where_they_run(backend_name: str, kind: str) -> None:
    nesting = mrl.Nesting((8, 16, 32))
    for seed in range(12):
        logits, labels = float32_logits(seed)
        target = float((logits[-1].argmax(-1) == labels).mean())
        temperatures = (None, (0.7, 1.0, 1.3))[seed % 2]
        for options in ({"method": "accuracy", "target": target}, {"method": "budget", "dim": 14.0}):
            policy = mrl.fit_cascade(
                logits, labels, nesting, logits=True, confidence=kind, temperatures=temperatures, **options
            )
            fitted = dict(policy.fitted)
            answers, level, _ = run(backend_name, logits, policy)
            assert (answers == labels).mean() == fitted["accuracy"]
            assert np.asarray(nesting.dims)[level].mean() == fitted["expected_dim"]


def surest_are_wrong(rng: np.random.Generator, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Level 1 is wrong exactly where ``1 - p > 1.1e-8``, which float32 does not tell from 0."""
    labels = rng.integers(0, 10, examples)
    gap = rng.uniform(19.5, 21.5, examples).astype(np.float32)
    logits = np.zeros((2, examples, 10), np.float32)
    logits[0, np.arange(examples), np.where(gap < 20.5, (labels + 1) % 10, labels)] = gap
    logits[1, np.arange(examples), labels] = 8
    return logits, labels


def wrong_up_to_a_threshold(rng: np.random.Generator, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Level 1 is wrong exactly where ``p`` is at most a threshold that is tested, and ``p`` is within 1e-7 of that."""
    labels = rng.integers(0, 2, examples)
    # Of those tested the one closest below a number of float32, to which what is just not above it is rounded.
    threshold = min((t for t in risk.FAMILY if 0.7 < t < 0.95), key=lambda t: (float(np.float32(t)) - t) % 2.0**-24)
    middle = np.float32(np.log(threshold) - np.log1p(-threshold))
    gap = (middle + rng.integers(-3, 4, examples) * np.spacing(middle)).astype(np.float32)
    sure = np.stack([gap, np.zeros_like(gap)], -1)
    fine = spec.confidence(sure, "probability", logits=True) > threshold
    logits = np.zeros((2, examples, 2), np.float32)
    logits[0, np.arange(examples), np.where(fine, labels, 1 - labels)] = gap
    logits[1, np.arange(examples), labels] = 8
    return logits, labels


@pytest.mark.parametrize("split", [None, 0.5])
@pytest.mark.parametrize("world", [surest_are_wrong, wrong_up_to_a_threshold])
def test_the_guarantee_holds_where_it_runs(backend_name: str, world, split) -> None:
    rng = np.random.default_rng(0)
    logits, labels = world(rng, 4000)
    policy = mrl.fit_cascade(logits, labels, mrl.Nesting((8, 16)), logits=True, method="risk", drop=0.01, split=split)
    for values, truth in ((logits, labels), world(rng, 4000)):
        assert (run(backend_name, values, policy)[0] == truth).mean() >= 0.99


def test_the_worse_of_two_answers_counts() -> None:
    """Within rounding of the threshold an example may stop or go on: only what both ways get right is right."""
    near = ROUNDING / 2
    confidence = np.array([[0.5 + near, 0.5 - near, 0.5 + near, 0.5 - near, 0.6, 0.4, np.nan], [1.0] * 7])
    correct = np.array([[1, 1, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]], bool)
    assert risk.surely_right(Outcomes(confidence, correct), (0.5,)).tolist() == [False] * 4 + [True, False, False]
    # Further away than one rounding, and nearer than two, it does the one or the other.
    past = np.array([[0.5 + 1.5 * ROUNDING, 0.5 - 1.5 * ROUNDING], [1.0] * 2])
    alone = np.array([[True, False], [False, True]])
    assert risk.surely_right(Outcomes(past, alone), (0.5,)).all()
    agree = np.array([[True] * 4], bool)
    assert risk.surely_right(Outcomes(confidence[:, :4], np.concatenate([agree, agree])), (0.5,)).all()


def test_no_threshold_that_is_tested_is_within_rounding_of_one() -> None:
    assert 1 - risk.FAMILY[0] > 2 * ROUNDING and list(risk.FAMILY) == sorted(risk.FAMILY, reverse=True)


@pytest.mark.parametrize("classes", [2, 10, 1000, 4096])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_confidences_are_as_near_as_is_said(backend_name: str, classes: int, kind: str, temperature: float) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(1, 400, classes)) * rng.choice([0.0, 1.0, 5.0, 10.0], (400, 1))
    logits[0, :, 0] += rng.uniform(0, 40, 400)
    logits = logits.astype(np.float32)
    policy = mrl.CascadePolicy((), (8,), confidence=kind, temperatures=(temperature,))
    *_, found = run(backend_name, logits, policy)
    expected = spec.confidence(logits[0], kind, temperature, logits=True)
    allowed = Outcomes(np.zeros((1, 1)), np.zeros((1, 1), bool), classes).rounding
    assert np.abs(found - expected).max() < allowed


SEEN = st.floats(0, 1) | st.sampled_from((0.0, 0.5, 1.0, np.nan, 1.0000001, -1e-9))


@given(st.lists(SEEN, min_size=1, max_size=6), st.lists(st.floats(-3 * ROUNDING, 3 * ROUNDING), max_size=4))
def test_candidates_keep_clear_of_what_was_seen(values: list[float], nearby: list[float]) -> None:
    confidence = np.array(values + [values[0] + step for step in nearby])
    candidates = clear_thresholds(confidence, ROUNDING)
    assert candidates[-1] == 1 and (np.diff(candidates) > 0).all() and candidates[0] >= 0
    seen = np.clip(confidence[~np.isnan(confidence)], 0, 1)
    for threshold in candidates[:-1]:
        assert (np.abs(seen - threshold) >= ROUNDING * (1 - 1e-9)).all()
    # No split is left out that keeps clear, and none is there twice.
    accepted = [int((seen > t).sum()) for t in candidates[:-1]]
    assert len(set(accepted)) == len(accepted) and (0 not in accepted or not len(seen))
    wide = [int((seen > a).sum()) for a, b in pairwise(np.sort(seen)) if b - a > 2.001 * ROUNDING]
    assert set(wide) <= set(accepted)


def test_splits_that_rounding_blurs_are_not_offered() -> None:
    """Right and wrong at level 1 are apart by less than float32 tells: both stop there, or both go on."""
    confidence = np.array([[0.7, 0.7 + ROUNDING, 0.9], [1.0, 1.0, 1.0]])
    correct = np.array([[False, True, True], [True, True, True]])
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((8, 16)), method="accuracy", target=1.0)
    assert policy.thresholds == ((0.7 + ROUNDING + 0.9) / 2,) and dict(policy.fitted)["exact"] is True
    confidence[0, 1] = 0.7 + 3 * ROUNDING
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((8, 16)), method="accuracy", target=1.0)
    assert policy.thresholds == ((0.7 + confidence[0, 1]) / 2,)
