"""Temperatures: those that make the labels likeliest, and what becomes of them in a policy."""

import numpy as np
import pytest
from cascade_cases import softmax_outputs
from hypothesis import given
from hypothesis import strategies as st

import mrl

GRID = np.geomspace(0.01, 100, 4001)


@np.errstate(all="ignore")
def losses(logits, labels, temperatures):
    """The mean cross-entropy in float64 under each temperature, of the rows for which it is ever finite."""
    gaps = logits - logits.max(-1, keepdims=True)
    own = np.take_along_axis(gaps, labels[:, None], -1)[:, 0]
    gaps, own = gaps[np.isfinite(own)], own[np.isfinite(own)]
    scaled = gaps / temperatures[:, None, None]
    return (np.log(np.exp(scaled).sum(-1)) - own / temperatures[:, None]).mean(-1)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(2, 5),
    st.floats(-30, 30) | st.floats(-2, 2),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_nothing_on_a_dense_grid_is_likelier(seed, rows, classes, power, spread, excluded) -> None:
    """Whatever the scale of the logits, also where every row has its own, and some classes are excluded."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 10.0**power
    if spread:
        logits *= 10.0 ** rng.uniform(-3, 3, (rows, 1))
    labels = np.where(rng.random(rows) < 0.7, logits.argmax(-1), rng.integers(0, classes, rows))
    out = (rng.random(logits.shape) < 0.2) & (rng.random((rows, 1)) < excluded)
    out[np.arange(rows), rng.integers(0, classes, rows)] = False  # something is left of every row
    logits[out] = -np.inf
    (temperature,) = mrl.fit_temperatures(logits[None], labels)
    assert 0.01 <= temperature <= 100
    if np.isfinite(logits[np.arange(rows), labels]).any():
        found, best = losses(logits, labels, np.array([temperature]))[0], losses(logits, labels, GRID).min()
        assert found <= best * (1 + 1e-12)


def test_a_loss_at_the_wall_does_not_stop_the_search() -> None:
    """In float64 the right rows' losses and slopes vanish at every temperature below 1."""
    for gap in (700.0, 1000.0, 1e8, 1e30, 1e300):
        assert mrl.fit_temperatures(np.array([[[gap, 0.0]] * 3]), [0, 1, 0]) == (100.0,)
        assert mrl.fit_temperatures(np.array([[[gap, 0.0]] * 3]), [0, 0, 0]) == (0.01,)
    # By hand: of three rows one is wrong, so that its probability is to be a third and the gap over T is log 2.
    for gap in (0.1, 1.0, 30.0):
        assert mrl.fit_temperatures(np.array([[[gap, 0.0]] * 3]), [0, 1, 0]) == (pytest.approx(gap / np.log(2)),)
    extreme = np.array([[[1.7e308, -1.7e308], [1.0, 0.0], [0.0, 0.1]]])
    assert mrl.fit_temperatures(extreme, [1, 0, 1]) == (100.0,) and mrl.fit_temperatures(extreme, [0, 0, 1]) == (0.01,)


def test_what_no_temperature_can_mend_tells_nothing() -> None:
    probabilities, labels = softmax_outputs(500, 1)
    logits = np.log(probabilities) * 2.5
    (best,) = mrl.fit_temperatures(logits, labels)
    lost = np.array([[[0.0, -np.inf, 3.0, 1.0, 2.0]]])
    more = np.concatenate([logits, lost], 1)
    assert (
        mrl.fit_temperatures(more, np.append(labels, 1)) == (best,) != mrl.fit_temperatures(more, np.append(labels, 0))
    )
    assert mrl.fit_temperatures(lost, [1]) == (1.0,)
    # A class of probability 0 is excluded at every temperature too.
    given = np.exp(more) / np.exp(more).sum(-1, keepdims=True)
    policy = mrl.fit_cascade(given, np.append(labels, 1), mrl.Nesting((8,)), temperatures="fit")
    assert policy.temperatures == (pytest.approx(best, rel=1e-9),)


def test_a_label_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large levels are worked on by parts, some of which may tell nothing."""
    probabilities, labels = softmax_outputs(60, 2)
    logits = np.log(probabilities)
    logits[0, np.arange(20), labels[:20]] = -np.inf
    whole = mrl.fit_temperatures(logits, labels)
    monkeypatch.setattr("mrl.cascade.temperature.CHUNK_BYTES", 8 * 5 * 7)
    assert mrl.fit_temperatures(logits, labels) == pytest.approx(whole, rel=1e-9)


def test_temperatures_are_those_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4000, 6)) * 3
    p = np.exp(logits[0] / 2.5)
    p /= p.sum(-1, keepdims=True)
    labels = (p.cumsum(-1) > rng.random((4000, 1))).argmax(-1)
    first, second = mrl.fit_temperatures(logits, labels)
    assert first == pytest.approx(2.5, rel=0.06)
    assert second == 100.0  # says nothing of the labels: the flatter the likelier, up to the end of the range

    def loss(scale: float) -> float:
        x = logits[0] * scale
        return float(np.mean(np.logaddexp.reduce(x, axis=-1) - x[np.arange(4000), labels]))

    assert loss(1 / first) <= min(loss(1 / first * 1.001), loss(1 / first * 0.999))


def test_temperatures_of_perfect_levels_end_at_the_range() -> None:
    logits = np.eye(3)[None] * 5
    assert mrl.fit_temperatures(logits, np.arange(3)) == (0.01,)
    with pytest.raises(ValueError, match="logits: expected numbers below infinity in every row, got others at level 0"):
        mrl.fit_temperatures(np.full((1, 2, 3), np.nan), np.array([0, 1]))
    for nothing in (np.zeros((1, 4, 3)), np.ones((1, 4, 1)), np.arange(12.0).reshape(1, 12, 1)):
        assert mrl.fit_temperatures(nothing, np.zeros(nothing.shape[1], int)) == (1.0,)
    masked = np.array([[[0.0, -np.inf, 1.0]] * 3])
    assert 0.01 <= mrl.fit_temperatures(masked, np.array([0, 2, 2]))[0] <= 100


def test_fitted_temperatures_are_recorded_and_used() -> None:
    probabilities, labels = softmax_outputs(400, 2)
    fitted = mrl.fit_cascade(probabilities, labels, mrl.Nesting((1, 2)), temperatures="fit")
    np.testing.assert_allclose(fitted.temperatures, mrl.fit_temperatures(np.log(probabilities), labels), rtol=1e-9)
    given = mrl.fit_cascade(probabilities, labels, mrl.Nesting((1, 2)), temperatures=fitted.temperatures)
    assert given == fitted
