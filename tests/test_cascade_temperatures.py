"""Temperatures: those that make the labels likeliest, and what becomes of them in a policy."""

import numpy as np
import pytest
from cascade_cases import softmax_outputs

import mrl


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
