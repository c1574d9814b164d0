"""The specification itself: against numbers worked by hand, and its gradients against central differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mrl
from mrl import spec
from mrl.heads import head_leaves
from mrl.testing.problems import Problem, head_from
from mrl.testing.strategies import layouts, problems

OPTIONS = ("label_smoothing", "ignore_index", "reduction", "leading")
STEP = 1e-6


def central_differences(function, arrays, upstream):
    """d sum(upstream * function(arrays)) / d arrays; the error is about step^2 + u / step."""
    gradients = []
    for i, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for position in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = [x.copy() for x in arrays]
                moved[i][position] += sign * STEP
                values.append(np.sum(upstream * function(moved)))
            gradient[position] = (values[0] - values[1]) / (2 * STEP)
        gradients.append(gradient)
    return gradients


def assert_close(gradients, expected, size):
    for gradient, numeric in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-7 * (1 + size))


@given(problems(layouts(options=OPTIONS), "float64", "loss"))
def test_cross_entropy_gradient_is_the_derivative(problem: Problem) -> None:
    layout = problem.layout
    kw = {key: getattr(layout, key) for key in ("label_smoothing", "ignore_index", "reduction")}

    def loss(arrays):
        return spec.nested_cross_entropy(
            arrays[0], head_from(layout, arrays[1:]), problem.labels, layout.nesting, **kw
        ).total

    dz, dhead = spec.nested_cross_entropy_vjp(
        problem.z, problem.head, problem.labels, layout.nesting, problem.upstream, **kw
    )
    arrays = [problem.z, *head_leaves(problem.head)]
    size = 100 * np.abs(problem.upstream).max(initial=0) * (1 + np.abs(problem.z).max(initial=0))
    assert_close([dz, *head_leaves(dhead)], central_differences(loss, arrays, problem.upstream), size)


@given(problems(layouts(options=("leading",)), "float64", "logits"))
def test_logits_gradient_is_the_derivative(problem: Problem) -> None:
    layout = problem.layout

    def logits(arrays):
        return spec.nested_logits(arrays[0], head_from(layout, arrays[1:]), layout.nesting)

    dz, dhead = spec.nested_logits_vjp(problem.z, problem.head, layout.nesting, problem.upstream)
    arrays = [problem.z, *head_leaves(problem.head)]
    size = 1000 * np.abs(problem.upstream).max(initial=0) * (1 + max(np.abs(x).max(initial=0) for x in arrays) ** 2)
    assert_close([dz, *head_leaves(dhead)], central_differences(logits, arrays, problem.upstream), size)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.booleans())
def test_truncate_gradient_is_the_derivative(seed: int, dim: int, normalize: bool) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, 5))
    z /= np.linalg.norm(z[:, :dim], axis=-1, keepdims=True)  # keeps the second derivative of order one
    upstream = rng.normal(size=(2, dim))
    gradient = spec.truncate_vjp(z, dim, upstream, normalize=normalize)
    (numeric,) = central_differences(lambda x: spec.truncate(x[0], dim, normalize=normalize), [z], upstream)
    assert_close([gradient], [numeric], 10)


def test_two_classes_by_hand() -> None:
    """One row, z = (1, 2), W = I, label 0, dims (1, 2): logits (1, 0) and (1, 2)."""
    z, head, labels = np.array([[1.0, 2.0]]), mrl.TiedHead(np.eye(2)), np.array([0])
    nesting = mrl.Nesting((1, 2), weights=(1.0, 3.0))
    loss = spec.nested_cross_entropy(z, head, labels, nesting)
    first, second = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    np.testing.assert_allclose(loss.per_level, [first, second], rtol=1e-15)
    np.testing.assert_allclose(loss.total, first + 3 * second, rtol=1e-15)
    dz, _ = spec.nested_cross_entropy_vjp(z, head, labels, nesting, np.ones(()))
    q = 1 / (1 + math.exp(-1)) - 1, 1 / (1 + math.exp(1)) - 1  # of class 0, at each level
    np.testing.assert_allclose(dz, [[q[0] + 3 * q[1], -3 * q[1]]], rtol=1e-14)


def test_smoothing_spreads_over_all_classes() -> None:
    z, head, nesting = np.array([[2.0]]), mrl.TiedHead(np.array([[1.0], [0.0], [0.0]])), mrl.Nesting((1,))
    lse = math.log(math.exp(2) + 2)
    loss = spec.nested_cross_entropy(z, head, np.array([0]), nesting, label_smoothing=0.3)
    assert loss.total == pytest.approx(0.7 * (lse - 2) + 0.3 * (lse - 2 / 3), rel=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_take_no_part(reduction: str) -> None:
    rng = np.random.default_rng(0)
    z, nesting = rng.normal(size=(4, 3)), mrl.Nesting((1, 3))
    head, labels = mrl.TiedHead(rng.normal(size=(5, 3))), np.array([1, -1, 4, -1])
    z[labels == -1] = np.nan
    kw = {"ignore_index": -1, "reduction": reduction}
    some = spec.nested_cross_entropy(z, head, labels, nesting, **kw)
    kept = spec.nested_cross_entropy(z[labels >= 0], head, labels[labels >= 0], nesting, reduction=reduction)
    upstream = np.ones(np.shape(some.total))
    dz, dhead = spec.nested_cross_entropy_vjp(z, head, labels, nesting, upstream, **kw)
    if reduction == "none":
        np.testing.assert_array_equal(some.total[labels == -1], 0)
        some = some._replace(total=some.total[labels >= 0])
    np.testing.assert_allclose(some.total, kept.total, rtol=1e-15)
    np.testing.assert_array_equal(dz[labels == -1], 0)
    assert np.isfinite(dhead.weight).all()


def test_none_left_is_zero_with_a_zero_gradient() -> None:
    z, head, labels = np.ones((2, 3)), mrl.TiedHead(np.ones((4, 3))), np.array([7, 7])
    nesting = mrl.Nesting((3,))
    assert spec.nested_cross_entropy(z, head, labels, nesting, ignore_index=7).total == 0
    dz, dhead = spec.nested_cross_entropy_vjp(z, head, labels, nesting, np.ones(()), ignore_index=7)
    assert not dz.any() and not dhead.weight.any()


@pytest.mark.parametrize("scale", [0.0, 1e-13, 9.9e-13])
def test_a_prefix_of_no_length_is_zero(scale: float) -> None:
    z = np.array([[scale, 0.0, 5.0]])
    assert not spec.truncate(z, 2).any()
    assert not spec.truncate_vjp(z, 2, np.ones((1, 2))).any()


def test_the_norm_does_not_overflow() -> None:
    np.testing.assert_allclose(spec.truncate(np.array([3e200, 4e200]), 2), [0.6, 0.8], rtol=1e-15)
