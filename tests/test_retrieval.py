"""Searches, reranks and funnels in every backend, where the kit's small problems do not reach."""

import numpy as np
import pytest
from retrieval_cases import array, host, integers, same, single

import mrl
from mrl import spec
from mrl.retrieval.planning import plan_gather, plan_passes, plan_tile

METRIC = pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])


def exact(rows: int, width: int, seed: int, metric: str) -> np.ndarray:
    return single(rows, width, seed) if metric == "cosine" else integers(rows, width, seed)


@METRIC
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("k", "tile"), [(1, None), (3, None), (20, None), (100, None), (100, 64), (3000, 1000)])
def test_many_rows_and_ties(backend_name: str, metric: str, prepared: bool, k: int, tile: int | None) -> None:
    queries, rows = exact(5, 12, 0, metric), exact(9000, 12, 1, metric)
    database = array(backend_name, rows)
    database = mrl.prepare_database(database, (8,), metric=metric) if prepared else database
    found = mrl.search(array(backend_name, queries), database, k=k, dim=8, metric=metric, tile=tile)
    same(found, spec.search(queries, rows, k=k, dim=8, metric=metric))


@METRIC
@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_whatever_the_order_of_the_rows(backend_name: str, metric: str, order: str) -> None:
    """The best come last, so that a threshold rises with every tile; or they are all the same."""
    queries, rows = exact(3, 6, 0, metric), exact(5000, 6, 1, metric)
    scores = spec.retrieval_scores(queries[0], rows, dim=6, metric=metric)
    rows = rows[np.argsort(scores if order == "ascending" else -scores)]
    rows = np.repeat(rows[:1], 5000, 0) if order == "equal" else rows
    found = mrl.search(array(backend_name, queries), array(backend_name, rows), k=70, metric=metric, tile=128)
    same(found, spec.search(queries, rows, k=70, metric=metric))


@METRIC
def test_real_numbers_at_full_width(backend_name: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    queries, rows = (rng.normal(size=(n, 300)).astype(np.float32) for n in (40, 3000))
    database = mrl.prepare_database(array(backend_name, rows), (16, 64), metric=metric)
    assert (database.metric, database.dims) == (metric, (16, 64, 300))
    for dim in (16, 64, 100, 300):
        found = mrl.search(array(backend_name, queries), database, k=20, dim=dim, metric=metric)
        same(found, spec.search(queries, rows, k=20, dim=dim, metric=metric), rtol=1e-4, atol=1e-4)
    found = mrl.funnel_search(
        array(backend_name, queries), database, dims=(16, 64, 300), shortlists=(200, 50, 5), metric=metric
    )
    expected = spec.funnel_search(queries, rows, dims=(16, 64, 300), shortlists=(200, 50, 5), metric=metric)
    same(found, expected, rtol=1e-4, atol=1e-4)


@METRIC
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_scored_in_float32(backend_name: str, metric: str, dtype: str) -> None:
    if backend_name == "numpy" and dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    queries, rows = (exact(n, 12, n, metric) for n in (4, 700))
    made = array(backend_name, rows, dtype)
    for database in (made, mrl.prepare_database(made, (4,), metric=metric)):
        for dim in (4, 12):
            found = mrl.search(array(backend_name, queries, dtype), database, k=30, dim=dim, metric=metric)
            assert "float32" in str(found.scores.dtype)
            same(found, spec.search(queries, rows, k=30, dim=dim, metric=metric))


@METRIC
def test_double_stays_double(backend_name: str, metric: str, widest_bits: int) -> None:
    if widest_bits < 64:
        pytest.skip("no 64-bit numbers")
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(3, 5)), rng.normal(size=(100, 5))
    rows[50] = rows[7] * (1 + 1e-12)
    found = mrl.search(array(backend_name, queries), array(backend_name, rows), k=100, metric=metric)
    assert "float64" in str(found.scores.dtype)
    np.testing.assert_allclose(
        host(found.scores), spec.search(queries, rows, k=100, metric=metric).scores, rtol=1e-12, atol=1e-12
    )


def test_equal_rows_have_equal_scores_and_the_first_comes_first(backend_name: str) -> None:
    """Wherever they lie: at the end of a vector of the processor, of a tile, or of the database."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(40, 24)).astype(np.float32)
    rows = few[rng.integers(0, 40, 10_000)]
    for database in (array(backend_name, rows), mrl.prepare_database(array(backend_name, rows), (24,))):
        found = mrl.search(array(backend_name, few), database, k=5)
        for i, indices in enumerate(host(found.indices)):
            np.testing.assert_array_equal(indices, np.flatnonzero((rows == few[i]).all(-1))[:5])


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_arrays_with_strides(backend_name: str, metric: str) -> None:
    queries, rows = (exact(n, 24, n, metric) for n in (6, 400))
    made = [array(backend_name, x) for x in (queries, rows)]
    if metric == "cosine":
        expected = spec.search(queries[::2, ::3], rows[::2, ::3], k=9)
        found = mrl.search(made[0][::2, ::3], made[1][::2, ::3], k=9)
    else:
        expected = spec.search(queries[::2, ::3], rows[::2, ::3], k=9, dim=5, metric="dot")
        found = mrl.search(made[0][::2, ::3], made[1][::2, ::3], k=9, dim=5, metric="dot")
    same(found, expected)


def test_queries_of_any_leading_shape(backend_name: str) -> None:
    rows = single(100, 8, 0)
    for lead in ((), (3,), (2, 3), (0,), (2, 0)):
        queries = np.resize(single(6, 8, 1), (*lead, 8)).astype(np.float32)
        database = array(backend_name, rows)
        same(mrl.search(array(backend_name, queries), database, k=4), spec.search(queries, rows, k=4))
        given = np.resize(np.arange(7), (*lead, 7))
        found = mrl.rerank(array(backend_name, queries), database, array(backend_name, given, "int32"), k=9)
        same(found, spec.rerank(queries, rows, given, k=9))
        found = mrl.funnel_search(array(backend_name, queries), database, dims=(2, 8), shortlists=(9, 3))
        same(found, spec.funnel_search(queries, rows, dims=(2, 8), shortlists=(9, 3)))


def test_more_queries_than_are_scored_together(backend_name: str) -> None:
    queries, rows = single(700, 8, 0), single(300, 8, 1)
    found = mrl.search(array(backend_name, queries), array(backend_name, rows), k=3)
    same(found, spec.search(queries, rows, k=3))
    found = mrl.funnel_search(array(backend_name, queries), array(backend_name, rows), dims=(4, 8), shortlists=(200, 3))
    same(found, spec.funnel_search(queries, rows, dims=(4, 8), shortlists=(200, 3)))


@METRIC
def test_nothing_to_search(backend_name: str, metric: str) -> None:
    queries = array(backend_name, np.ones((2, 4), np.float32))
    for database in (empty := array(backend_name, np.ones((0, 4), np.float32)), mrl.prepare_database(empty, (2, 4))):
        if isinstance(database, mrl.Database) and metric != "cosine":
            continue
        for found in (
            mrl.search(queries, database, k=3, metric=metric),
            mrl.funnel_search(queries, database, dims=(2, 4), shortlists=(5, 3), metric=metric),
        ):
            assert host(found.indices).tolist() == [[-1] * 3] * 2
            assert np.isneginf(host(found.scores)).all()
    none = array(backend_name, np.zeros((2, 0)), "int32")
    found = mrl.rerank(queries, queries, none, k=2, metric=metric)
    assert host(found.indices).tolist() == [[-1, -1]] * 2


def test_queries_and_rows_that_hold_nan(backend_name: str) -> None:
    queries, rows = single(3, 6, 0), single(200, 6, 1)
    queries[1, 0] = rows[::3, 2] = np.nan
    for database in (array(backend_name, rows), mrl.prepare_database(array(backend_name, rows), (4, 6))):
        for dim in (2, 4, 6):
            found = mrl.search(array(backend_name, queries), database, k=200, dim=dim)
            same(found, spec.search(queries, rows, k=200, dim=dim))


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e25])
def test_numbers_whose_squares_leave_the_range(backend_name: str, scale: float) -> None:
    """A norm of at most 1e-12 is none; all others normalise."""
    rows = (single(50, 6, 1) * scale).astype(np.float32)
    queries = single(4, 6, 0)
    for database in (array(backend_name, rows), mrl.prepare_database(array(backend_name, rows), (4, 6))):
        for dim in (4, 6):
            found = mrl.search(array(backend_name, queries), database, k=50, dim=dim)
            expected = spec.search(queries, rows, k=50, dim=dim)
            np.testing.assert_allclose(host(found.scores), expected.scores, rtol=1e-5, atol=1e-6)


def test_numpy_beside_a_framework(backend_name: str) -> None:
    rows = single(60, 8, 0)
    queries = array(backend_name, rows[:3])
    if backend_name == "torch":
        with pytest.raises(TypeError, match=r"got queries: torch\.Tensor, database: numpy\.ndarray"):
            mrl.search(queries, rows, k=2)
    else:
        same(mrl.search(queries, rows, k=2), spec.search(rows[:3], rows, k=2))
        prepared = mrl.prepare_database(rows, (4,))
        same(mrl.search(queries, prepared, k=2, dim=4), spec.search(rows[:3], rows, k=2, dim=4))


def test_a_database_is_a_tuple_of_arrays(backend_name: str) -> None:
    rows = array(backend_name, single(60, 8, 0))
    for metric in ("cosine", "dot", "l2"):
        database = mrl.prepare_database(rows, (2, 4, 8), metric=metric)
        assert (database.metric, database.dims) == (metric, (2, 4, 8))
        moved = mrl.convert(database, "numpy")
        assert isinstance(moved, mrl.Database) and moved.metric == metric
        np.testing.assert_array_equal(moved.vectors, host(rows))
        for m, prefix in zip((2, 4), moved.prefixes, strict=True):
            assert prefix.flags.c_contiguous and prefix.shape == (60, m)
            np.testing.assert_allclose(prefix, spec.truncate(host(rows), m, normalize=metric == "cosine"), rtol=1e-6)


def test_a_generator_of_dims_is_taken() -> None:
    assert mrl.prepare_database(single(6, 8, 0), (m for m in (2, 4))).dims == (2, 4, 8)


def test_memory_is_bounded_by_the_plan() -> None:
    for queries in (1, 10, 256, 10_000):
        for rows in (1, 1000, 10**6, None):
            tile = plan_tile(queries, rows, 2048, 4, on_host=True, copied=True, tile=None)
            assert tile.queries <= 256 and tile.queries * tile.rows * 4 <= (8 << 20) + 256 * 16 * 4
            assert tile.rows * 2048 * 4 <= (64 << 20) + 16 * 2048 * 4
            for dim, k in ((16, 200), (2048, 10)):
                passes = plan_passes(queries, rows, dim, k, 4, on_host=True, tile=None)
                maxima = passes.queries * ((rows or 0) // 16) * 4 if passes.again else 0
                assert maxima <= 256 << 20 and passes.queries * passes.rows * 4 <= (16 << 20) + 256 * 16 * 4
                assert (passes.again or 0) * k * 16 * dim * 4 <= 4 << 20 or passes.again == 1
    assert plan_gather(200, 2048, 4, on_host=False, queries=3) == 3 and plan_gather(0, 8, 4, on_host=True) >= 1
    assert plan_tile(3, 100, 8, 4, on_host=False, copied=False, tile=1) == (3, 16)
