"""Every backend against the specification: every operation, dtype and mode, with mutants that must fail."""

import gc
import sys

import numpy as np
import pytest

import mrl.testing
from mrl.testing.drivers import Call, driver_of


@pytest.fixture
def _let_go_of_what_was_compiled(backend_name: str):
    """No case uses what was compiled for another, and all of it together is gigabytes."""
    yield
    if backend_name == "jax":
        sys.modules["jax"].clear_caches()
    if backend_name == "torch":
        sys.modules["torch"]._dynamo.reset()
    if backend_name != "numpy":
        gc.collect()


OPS = [case.name for case in mrl.testing.CASES]


@pytest.mark.usefixtures("_let_go_of_what_was_compiled")
@pytest.mark.parametrize("op", OPS)
def test_backend_equals_the_specification(backend_name: str, op: str, random_seed: int | None) -> None:
    rows = mrl.testing.check_backend(backend_name, ops=[op], specials=True, examples=24, random_seed=random_seed)
    driver = driver_of(backend_name)
    assert {(row.dtype, row.mode) for row in rows} == {
        (dtype, mode) for dtype in driver.dtypes for mode in driver.modes
    }
    for row in rows:
        assert row.examples >= 12
        assert row.worst <= 1
        assert row.killed and not row.survived


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_leave_room_for_a_right_implementation_and_no_more(dtype: str, random_seed: int | None) -> None:
    """In float64 the specification is compared with itself: exact. A bound must not be infinite or zero."""
    rows = mrl.testing.check_backend("numpy", dtypes=[dtype], specials=True, examples=24, random_seed=random_seed)
    assert all(row.worst < 0.5 for row in rows)


@pytest.mark.parametrize("fused", [True, False])
def test_a_small_loss_beside_large_logits_keeps_its_digits(backend_name: str, fused: bool) -> None:
    """Where the bound has room for the rounding of log-sum-exp to the precision of the logits."""
    nesting, driver = mrl.Nesting((1, 2)), driver_of(backend_name)
    z, weight = np.array([[1.0, 0.0]]), np.array([[1000.0, 0.0], [995.0, 0.0], [990.0, 0.0]])

    def loss(inputs, labels):
        z, weight = inputs
        return [mrl.nested_cross_entropy(z, mrl.TiedHead(weight), labels[0], nesting, fused=fused).total]

    for mode in driver.modes:
        call = Call(loss, [z, weight], [np.array([0])], None, "float32", key=("small loss", fused))
        (found,) = driver.run(mode, call).outputs
        np.testing.assert_allclose(found, 2 * np.log1p(np.exp(-5) + np.exp(-10)), rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_excluded_class_has_no_part(backend_name: str, fused: bool, reduction: str, tied: bool) -> None:
    """A padding token that a bias of minus infinity forbids is what stands in for the label of an ignored row."""
    nesting, bias = mrl.Nesting((1, 2), weights=(1.0, 0.5)), np.array([-np.inf, 0.25, -0.5], np.float32)
    weight = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.5]], np.float32)
    head = mrl.TiedHead(weight, bias) if tied else mrl.NestedHead((weight[:, :1], weight), (bias, bias))
    z, labels = np.array([[1.0, 2.0], [3.0, -4.0], [np.nan, 0.0]], np.float32), np.array([1, 2, 0], np.int32)
    others = [np.logaddexp(*(z[:2, :m] @ weight[1:, :m].T + bias[1:]).T) for m in nesting.dims]
    picked = [(z[[0, 1], :m] * weight[[1, 2], :m]).sum(1) + bias[1:] for m in nesting.dims]
    losses = 1.0 * (others[0] - picked[0]) + 0.5 * (others[1] - picked[1])
    expected = losses.mean() if reduction == "mean" else [*losses, 0.0]
    given = [mrl.convert(x, backend_name) for x in (z, head, labels)]
    loss = mrl.nested_cross_entropy(*given, nesting, ignore_index=0, reduction=reduction, fused=fused)
    np.testing.assert_allclose(mrl.convert(loss.total, "numpy"), expected, rtol=1e-6)
    nothing = [given[0], given[1], mrl.convert(np.zeros(3, np.int32), backend_name)]
    loss = mrl.nested_cross_entropy(*nothing, nesting, ignore_index=0, reduction=reduction, fused=fused)
    assert not np.any(mrl.convert(loss.total, "numpy"))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_mean_over_no_weight_is_nothing(backend_name: str, fused: bool, tied: bool) -> None:
    """Though smoothing gives a row whose class counts nothing a share of the others."""
    nesting, weight = mrl.Nesting((1, 2)), np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)
    head = mrl.TiedHead(weight) if tied else mrl.NestedHead((weight[:, :1], weight))
    z, labels, class_weight = np.ones((3, 2), np.float32), np.zeros(3, np.int32), np.array([0.0, 1.0], np.float32)
    z, head, labels, class_weight = (mrl.convert(x, backend_name) for x in (z, head, labels, class_weight))
    options = {"class_weight": class_weight, "label_smoothing": 0.2, "fused": fused}
    assert mrl.convert(mrl.nested_cross_entropy(z, head, labels, nesting, **options).total, "numpy") == 0
    total = mrl.nested_cross_entropy(z, head, labels, nesting, reduction="sum", **options).total
    assert mrl.convert(total, "numpy") > 0.1
