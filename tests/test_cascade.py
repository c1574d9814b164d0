"""Cascades at their edges; that they are right in between is the proof kit's matter."""

import numpy as np
import pytest
from cascade_cases import BIAS, DIMS, HEADS, POLICY, TIED, WEIGHT, Z, host, same

import mrl
from mrl import spec


@pytest.fixture
def to(backend_name: str):
    """Arrays in trees to the backend under test."""
    return lambda tree: mrl.convert(tree, backend_name)


@HEADS
@pytest.mark.parametrize("lead", [(0,), (1,), (), (0, 3), (2, 5), (2, 1, 3)])
def test_leading_shapes(to, head, lead) -> None:
    z = np.random.default_rng(len(lead)).normal(size=(*lead, 7)).astype(np.float32)
    result = mrl.cascade_predict(to(z), to(head), POLICY)
    assert all(np.shape(x) == lead for x in host(result))
    same(result, spec.cascade_predict(z, head, POLICY))
    values = spec.nested_logits(z, head, POLICY.nesting).astype(np.float32)
    exits = mrl.cascade_exit(to(values), POLICY, logits=True)
    assert all(np.shape(x) == lead for x in host(exits))
    same(exits, spec.cascade_exit(values, POLICY, logits=True))


@HEADS
@pytest.mark.parametrize("rows", [1024, 1025, 5000])
def test_more_rows_than_a_chunk(to, head, rows) -> None:
    z = np.random.default_rng(rows).normal(size=(rows, 7)).astype(np.float32)
    expected = spec.cascade_predict(z, head, POLICY)
    logits = spec.nested_logits(z, head, POLICY.nesting)
    sure = np.ones(rows, bool)
    for g, threshold in enumerate(POLICY.thresholds):
        confidence = spec.confidence(logits[g], "probability", POLICY.temperatures[g], logits=True)
        sure &= np.abs(confidence - threshold) > 1e-5
    assert sure.mean() > 0.99
    result = mrl.cascade_predict(to(z), to(head), POLICY)
    for found, right in zip(host(result)[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(found[sure], right[sure])


@HEADS
@pytest.mark.parametrize(("thresholds", "level"), [((0.0, 0.0), 0), ((1.0, 1.0), 2), ((1.0, 0.0), 1)])
def test_all_exit_at_one_level(to, head, thresholds, level) -> None:
    policy = mrl.CascadePolicy(thresholds, DIMS)
    result = mrl.cascade_predict(to(Z), to(head), policy)
    assert set(host(result)[1].tolist()) == {level}
    same(result, spec.cascade_predict(Z, head, policy))


@HEADS
@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("dims", [(1,), (2, 5)])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_one_level_and_one_class(to, head, confidence, dims, classes) -> None:
    policy = mrl.CascadePolicy((0.6,) * (len(dims) - 1), dims, confidence=confidence)
    if isinstance(head, mrl.TiedHead):
        head = mrl.TiedHead(WEIGHT[:classes], BIAS[:classes])
    else:
        head = mrl.NestedHead(tuple(WEIGHT[:classes, :m] for m in dims))
    result = mrl.cascade_predict(to(Z), to(head), policy)
    same(result, spec.cascade_predict(Z, head, policy))
    if classes == 1:
        np.testing.assert_allclose(host(result)[2], 1.0, rtol=1e-6)


def test_nan_never_accepts(to) -> None:
    z = Z[:4].copy()
    z[1, 4] = np.nan  # not among the dimensions of levels 1 and 2
    z[2, 0] = np.nan
    for thresholds in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        policy = mrl.CascadePolicy(thresholds, DIMS)
        result = mrl.cascade_predict(to(z), to(TIED), policy)
        expected = spec.cascade_predict(z, TIED, policy)
        same(result, expected)
        labels, level, confidence = host(result)
        assert labels[2] == -1 and level[2] == 2 and np.isnan(confidence[2])
        assert (labels[1] == -1) == (thresholds == (1.0, 1.0))
    values = np.array([[[0.5, np.nan], [np.nan, 1.0]], [[0.25, 0.75], [np.nan, np.nan]]], np.float32)
    for kind in ("probability", "margin", "entropy"):
        exits = mrl.cascade_exit(to(values), mrl.CascadePolicy((0.0,), (1, 2), confidence=kind))
        assert host(exits)[0].tolist() == [1, -1] and host(exits)[1].tolist() == [1, 1]


def test_nan_among_many_classes_never_accepts(to) -> None:
    """Maxima of arrays that are not small may pass over NaN."""
    values = np.full((2, 100, 100), 0.005, np.float32)
    values[..., 5] = 0.505
    values[:, 0, 0] = values[:, 1, 99] = values[:, 2] = np.nan
    for kind in ("probability", "margin", "entropy"):
        policy = mrl.CascadePolicy((0.0,), (1, 2), confidence=kind)
        same(mrl.cascade_exit(to(values), policy), spec.cascade_exit(values, policy))


def test_infinite_logits(to) -> None:
    values = np.array([[[0.0, -np.inf, 1.0], [np.inf, 0.0, 0.0], [-np.inf] * 3]] * 2, np.float32)
    for kind in ("probability", "margin", "entropy"):
        policy = mrl.CascadePolicy((0.5,), (1, 2), confidence=kind)
        with np.errstate(invalid="ignore"):
            same(mrl.cascade_exit(to(values), policy, logits=True), spec.cascade_exit(values, policy, logits=True))


def test_zero_probabilities_with_a_temperature(to) -> None:
    values = np.array([[[0.0, 0.25, 0.75]], [[0.0, 0.0, 1.0]]], np.float32)
    for kind in ("probability", "margin", "entropy"):
        for temperature in (0.5, 1.0, 2.0):
            policy = mrl.CascadePolicy((0.99,), (1, 2), confidence=kind, temperatures=(temperature, temperature))
            same(mrl.cascade_exit(to(values), policy), spec.cascade_exit(values, policy))


def test_ties_go_to_the_lowest_index_and_equality_stays(to) -> None:
    values = np.array([[[0.25, 0.375, 0.375]], [[0.5, 0.0, 0.5]]], np.float32)
    at = mrl.cascade_exit(to(values), mrl.CascadePolicy((0.375,), (1, 2)))
    assert host(at)[0].tolist() == [0] and host(at)[1].tolist() == [1]
    below = mrl.cascade_exit(to(values), mrl.CascadePolicy((0.375 - 1e-12,), (1, 2)))
    assert host(below)[0].tolist() == [1] and host(below)[1].tolist() == [0]
    zeros = np.zeros((3, 4), np.float32)
    labels = host(mrl.cascade_predict(to(zeros), to(mrl.TiedHead(np.zeros((3, 4), np.float32))), POLICY_OF_FOUR))[0]
    assert labels.tolist() == [0, 0, 0]


POLICY_OF_FOUR = mrl.CascadePolicy((0.9,), (2, 4))


@HEADS
def test_chunks_change_nothing(to, head) -> None:
    whole = host(mrl.cascade_predict(to(Z), to(head), POLICY))
    for chunk_rows in (1, 2, 7, 23, 1000):
        part = host(mrl.cascade_predict(to(Z), to(head), POLICY, chunk_rows=chunk_rows))
        np.testing.assert_array_equal(part[0], whole[0])
        np.testing.assert_array_equal(part[1], whole[1])
        np.testing.assert_allclose(part[2], whole[2], rtol=2e-6)


@HEADS
@pytest.mark.parametrize("store", [1, 600])
def test_waves_change_nothing(to, head, store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE_BYTES", "HOST_STORE_BYTES"):
        monkeypatch.setattr(f"mrl.cascade.planning.{name}", store)
    same(mrl.cascade_predict(to(Z), to(head), POLICY, chunk_rows=2), spec.cascade_predict(Z, head, POLICY))


def test_a_wider_embedding_and_head_are_not_looked_at(to) -> None:
    policy = mrl.CascadePolicy((0.6,), (2, 4))
    z, weight = Z.copy(), WEIGHT.copy()
    z[:, 4:], weight[:, 4:] = np.nan, np.nan
    same(
        mrl.cascade_predict(to(z), to(mrl.TiedHead(weight)), policy),
        spec.cascade_predict(z, mrl.TiedHead(weight), policy),
    )


def test_predict_is_exit_on_the_logits_of_the_same_framework(to) -> None:
    logits = mrl.nested_logits(to(Z), to(TIED), POLICY.nesting)
    for thresholds in ((0.7, 0.5), (0.0, 1.0), (0.41, 0.43)):
        policy = mrl.CascadePolicy(thresholds, DIMS)
        lazy, given = (
            host(x)
            for x in (mrl.cascade_predict(to(Z), to(TIED), policy), mrl.cascade_exit(logits, policy, logits=True))
        )
        np.testing.assert_array_equal(lazy[0], given[0])
        np.testing.assert_array_equal(lazy[1], given[1])


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["probability", "margin", "entropy"])
def test_rows_that_a_bound_lets_go_are_those_that_confidence_would(to, kind: str, scale: float) -> None:
    """Many classes, where the mean of the logits decides most rows, few, or none; and rows that are no numbers."""
    rng = np.random.default_rng(0)
    z, head = (
        rng.normal(size=(200, 8)).astype(np.float32),
        rng.normal(size=(70, 8)).astype(np.float32) * np.float32(scale),
    )
    z[3, 1], z[5, 6], z[7] = np.nan, np.inf, 1e30
    for temperatures in (None, (0.5, 2.0, 1.0)):
        values = spec.nested_logits(z, mrl.TiedHead(head), mrl.Nesting((2, 4, 8)))
        cuts = [
            np.nanmedian(spec.confidence(values[g], kind, (temperatures or (1, 1))[g], logits=True)) for g in (0, 1)
        ]
        for thresholds in (cuts, (1.0, cuts[1]), (0.0, 1.0)):
            policy = mrl.CascadePolicy(
                np.clip(np.asarray(thresholds, float), 0, 1).tolist(),
                (2, 4, 8),
                confidence=kind,
                temperatures=temperatures,
            )
            found, wanted = (
                host(mrl.cascade_predict(to(z), to(mrl.TiedHead(head)), policy)),
                spec.cascade_predict(z, mrl.TiedHead(head), policy),
            )
            near = np.zeros(200, bool)  # a median is the confidence of a row: it may go either way
            for g in (0, 1):
                sure = spec.confidence(values[g], kind, policy.temperatures[g], logits=True)
                near |= np.abs(sure - policy.thresholds[g]) < 1e-5
            np.testing.assert_array_equal(found[1][~near], wanted.level[~near])
            np.testing.assert_allclose(found[2][~near], wanted.confidence[~near], rtol=1e-3, atol=1e-5)
