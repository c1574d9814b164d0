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
from mrl.testing.cross_entropy.problems import drawn
from mrl.testing.drivers import driver_of
from mrl.testing.problems import Layout
from mrl.testing.runners import prove

MANY_LEVELS = mrl.Nesting((2, 4, 8, 16, 32, 64, 128, 256), (1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 3.7, 0.5))
LAYOUTS = (
    Layout(MANY_LEVELS, (5,), 258, 4, ignore_index=0, weighted=("sample_weight", "level_weights")),
    Layout(MANY_LEVELS, (3,), 256, 3, bias=False, chunk_rows=2, label_smoothing=0.1, weighted=("class_weight",)),
    Layout(MANY_LEVELS, (4,), 256, 4, chunk_rows=3, soft=True, weighted=("class_weight", "level_weights")),
    Layout(MANY_LEVELS, (4,), 256, 5, chunk_rows=1, reduction="none", ignore_index=1),
    Layout(MANY_LEVELS, (4,), 256, 5, tied=False, chunk_rows=3, reduction="sum"),
)
DRAWN = drawn("loss", of=st.sampled_from(LAYOUTS))
(CASE,) = (replace(case, drawn=DRAWN) for case in CASES if case.name == "nested_cross_entropy")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_levels(framework_name: str, dtype: str, random_seed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """More levels than are in memory at once: those that start over, and the sums they take over."""
    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    assert len(planning.plan_groups(MANY_LEVELS.dims, 1)) == 3
    driver = driver_of(framework_name)
    for mode in driver.modes:
        row = prove(CASE, driver, mode, dtype, examples=24, random_seed=random_seed)
        assert row.worst <= 1 and row.killed


@pytest.mark.parametrize("tile_bytes", [1, 150])
def test_tiles_of_a_chunk_in_torch(
    backend_torch: None, tile_bytes: int, random_seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Element-wise work on a few rows of one level at a time, as where a chunk does not fit a cache."""
    from mrl.backends.torch import sweep

    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    monkeypatch.setattr(sweep, "TILE_BYTES", tile_bytes)
    row = prove(CASE, driver_of("torch"), "eager", "float32", examples=24, random_seed=random_seed)
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
    st.integers(0, 6),
    st.none() | st.integers(0, 10_000),
    st.integers(1, 100_000),
    st.sampled_from((4, 8)),
    st.booleans(),
    st.none() | st.integers(1, 20_000),
)
def test_chunks_cover_the_rows_within_the_budget(
    buffers, more_alone, rows, classes, itemsize, on_host, chunk_rows
) -> None:
    chunk = planning.plan_chunk_rows(
        buffers,
        rows,
        classes,
        itemsize,
        on_host=on_host,
        chunk_rows=chunk_rows,
        buffers_alone=buffers + more_alone,
    )
    assert chunk >= 1
    if rows:
        assert chunk <= rows
        if chunk_rows is None:  # what fills up the last chunk is little
            assert -rows % chunk <= max(rows / planning.EVEN_ROWS, -(-rows // chunk))
    if chunk_rows is not None:
        assert chunk in (chunk_rows, rows) or rows == 0
        return
    budgets = planning.HOST_BUDGET_BYTES if on_host else planning.ACCELERATOR_BUDGET_BYTES
    held = buffers + more_alone if chunk == rows else buffers
    assert chunk == 1 or chunk * held * classes * itemsize <= max(budgets)


@pytest.mark.parametrize("rows", [4096, 5000, 16_384, 3 * 7 * 250])
def test_chunks_divide_the_rows_where_a_number_like_that_does(rows: int) -> None:
    chunk = planning.plan_chunk_rows(7, rows, 1000, 4, on_host=True)
    assert 400 < chunk < 600
    assert rows % chunk == 0


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


@pytest.mark.parametrize(("shards", "on_host"), [(1, True), (1, False), (2, True), (5, False)])
def test_every_row_keeps_its_place_in_jax(
    backend_jax: None, shards: int, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of rows that lie together, level after level, as on a host, and of some rows of every shard."""
    from mrl.backends.jax.sweep import Plan, sweep

    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    rng = np.random.default_rng(0)
    z, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((10, 256), (4, 256), (4,)))
    labels, rows = rng.integers(0, 4, 10).astype(np.int32), rng.random(10).astype(np.float32)
    exact = mrl.spec.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, MANY_LEVELS, reduction="none")
    plan = Plan(
        MANY_LEVELS,
        tied=True,
        label_smoothing=0.0,
        summed=True,
        shards=shards,
        chunk_rows=3 // shards + 1,
        on_host=on_host,
    )
    arrays = mrl.convert((z, (weight, bias), (labels, rows, None, None)), "jax")
    losses, _ = sweep(*arrays, plan, (True, True, True))
    np.testing.assert_allclose(losses, exact.per_level * rows, rtol=1e-4, atol=1e-5)
    _, whole = sweep(*arrays, plan._replace(chunk_rows=10), (True, True, True))
    for needs in ((True, True, True), (False, True, False), (False, False, True), (True, False, False)):
        _, gradients = sweep(*arrays, plan, needs)
        for found, wanted, needed in zip(gradients, whole, needs, strict=True):
            assert (found is not None) == needed
            if needed:
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
