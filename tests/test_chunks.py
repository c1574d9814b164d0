"""Which rows and levels are worked on together is a matter of time and memory, never of the answer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mrl.spec
import mrl.testing
from mrl import planning
from mrl.testing.cases import CASES
from mrl.testing.drivers import driver_of
from mrl.testing.problems import Layout
from mrl.testing.runners import prove

MANY_LEVELS = mrl.Nesting((2, 4, 8, 16, 32, 64, 128, 256), (1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 3.7, 0.0))
LAYOUTS = (
    Layout(MANY_LEVELS, (5,), 258, 4, ignore_index=0),
    Layout(MANY_LEVELS, (3,), 256, 3, bias=False, chunk_rows=2, label_smoothing=0.1),
    Layout(MANY_LEVELS, (4,), 256, 5, chunk_rows=1, reduction="none", ignore_index=1),
    Layout(MANY_LEVELS, (4,), 256, 5, tied=False, chunk_rows=3, reduction="sum"),
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_levels(framework_name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More levels than are in memory at once: those that start over, and the sums they take over."""
    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    assert len(planning.plan_groups(MANY_LEVELS.dims, 1)) == 3
    (case,) = (case for case in CASES if case.name == "nested_cross_entropy")
    case = replace(case, layouts=st.sampled_from(LAYOUTS))
    driver = driver_of(framework_name)
    for mode in driver.modes:
        row = prove(case, driver, mode, dtype, examples=24)
        assert row.worst <= 1 and row.killed


@given(st.sets(st.integers(1, 5000), min_size=1, max_size=14).map(sorted).map(tuple), st.sampled_from((1, 1 << 30)))
def test_groups_hold_every_level_once(dims: tuple[int, ...], level_bytes: int) -> None:
    groups = planning.plan_groups(dims, level_bytes)
    levels = [g for start, stop in reversed(groups) for g in range(start, stop)]
    assert levels == list(range(len(dims)))
    over_again = sum(dims[start - 1] for start, _ in groups if start)
    assert over_again <= dims[-1] / 4
    assert planning.plan_places(groups) <= max(len(dims), planning.LEVELS_TOGETHER)
    assert level_bytes > 1 or len(groups) == 1


@given(
    st.integers(1, 12),
    st.none() | st.integers(0, 10_000),
    st.integers(1, 100_000),
    st.sampled_from((4, 8)),
    st.booleans(),
    st.none() | st.integers(1, 20_000),
)
def test_chunks_cover_the_rows_within_the_budget(buffers, rows, classes, itemsize, on_host, chunk_rows) -> None:
    chunk = planning.plan_chunk_rows(buffers, rows, classes, itemsize, on_host=on_host, chunk_rows=chunk_rows)
    assert chunk >= 1
    if rows:
        assert chunk <= rows
        if chunk_rows is None:  # what fills up the last chunk is little
            assert -rows % chunk <= max(rows / planning.EVEN_ROWS, -(-rows // chunk))
    if chunk_rows is not None:
        assert chunk in (chunk_rows, rows) or rows == 0
        return
    budgets = planning.HOST_BUDGET_BYTES if on_host else planning.ACCELERATOR_BUDGET_BYTES
    assert chunk == 1 or chunk * buffers * classes * itemsize <= max(budgets)


def test_any_chunk_gives_the_same_answer(framework_name: str) -> None:
    """The plan's and the caller's own."""
    rng = np.random.default_rng(0)
    nesting = mrl.Nesting.doubling(8, 64)
    z = rng.normal(size=(600, 64)).astype(np.float32)
    head = mrl.init_head(nesting, 50, tied=True, backend="numpy", seed=0)
    labels = rng.integers(0, 50, 600).astype(np.int32)
    exact = mrl.spec.nested_cross_entropy(z, head, labels, nesting)
    z, head, labels = mrl.convert((z, head, labels), framework_name)
    for chunk_rows in (None, 1000, 599, 256, 7):
        loss = mrl.nested_cross_entropy(z, head, labels, nesting, chunk_rows=chunk_rows)
        np.testing.assert_allclose(np.asarray(loss.per_level), exact.per_level, rtol=2e-6)


@pytest.mark.parametrize("on_host", [True, False])
def test_every_row_keeps_its_place_in_jax(backend_jax: None, on_host: bool) -> None:
    """Chunks of rows that lie together, as on a host, and of rows from all over the batch, as elsewhere."""
    from mrl.backends.jax.sweep import Plan, sweep

    rng = np.random.default_rng(0)
    nesting = mrl.Nesting((2, 3, 5))
    z, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((10, 5), (4, 5), (4,)))
    labels, rows = rng.integers(0, 4, 10).astype(np.int32), rng.random(10).astype(np.float32)
    exact = mrl.spec.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, nesting, reduction="none")
    plan = Plan(nesting, tied=True, label_smoothing=0.0, summed=True, chunk_rows=3, on_host=on_host)
    arrays = mrl.convert((z, (weight, bias), labels, rows), "jax")
    losses, (dz, dweight, dbias) = sweep(*arrays, plan, (True, True, True))
    np.testing.assert_allclose(losses, exact.per_level * rows, rtol=1e-5)
    whole, wanted = sweep(*arrays, plan._replace(chunk_rows=10), (True, True, True))
    np.testing.assert_allclose(losses, whole, rtol=1e-6)
    for found, want in zip((dz, dweight, dbias), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
