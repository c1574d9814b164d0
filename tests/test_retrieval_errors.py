"""Every bad argument of a search in every backend: the right exception, naming the argument and what to do."""

import sys

import numpy as np
import pytest
from retrieval_cases import array

import mrl


def zeros(name: str, *shape: int, dtype: str = "float32"):
    return array(name, np.zeros(shape), dtype)


SEARCHES = [
    ({"k": 0}, ValueError, r"k: expected an integer of at least 1, got 0"),
    ({"k": 1.5}, TypeError, r"k: expected an integer, got float"),
    ({"dim": 0}, ValueError, r"dim: expected an integer of at least 1, got 0"),
    ({"dim": 9}, ValueError, r"dim: expected an integer in \[1, 6\], the width of the database, got 9"),
    ({"metric": "angle"}, ValueError, r"metric: expected one of \('cosine', 'dot', 'l2'\), got 'angle'"),
    ({"tile": 0}, ValueError, r"tile: expected an integer of at least 1"),
    ({"queries": (3, 5)}, ValueError, r"queries: expected shape \(\.\.\., 6\), as wide as the database, got \(3, 5\)"),
    ({"queries": (3, 5), "dim": 6}, ValueError, r"queries: expected shape \(\.\.\., D\) with D at least 6"),
    ({"queries": ()}, ValueError, r"queries: expected shape"),
    ({"queries_dtype": "int32"}, TypeError, r"queries: expected a dtype of .*, got int32"),
    ({"database": (6,)}, ValueError, r"database: expected shape \(N, D\) with D at least 1, got \(6,\)"),
    ({"database": (2, 0)}, ValueError, r"database: expected shape \(N, D\) with D at least 1, got \(2, 0\)"),
    ({"database_dtype": "int32"}, TypeError, r"database: expected a dtype of .*, got int32"),
]


@pytest.mark.parametrize(("change", "error", "message"), SEARCHES)
def test_search_refuses(backend_name: str, change: dict, error, message) -> None:
    options = {"k": 2, "dim": None, "metric": "cosine", "tile": None} | change
    queries = zeros(backend_name, *options.pop("queries", (3, 6)), dtype=options.pop("queries_dtype", "float32"))
    database = zeros(backend_name, *options.pop("database", (4, 6)), dtype=options.pop("database_dtype", "float32"))
    with pytest.raises(error, match=message):
        mrl.search(queries, database, **options)


@pytest.mark.parametrize(
    ("candidates", "dtype", "error", "message"),
    [
        ([[0, 4]], "int32", ValueError, r"candidates: expected rows in \[-1, 4\), got 4"),
        ([[0, -2]], "int32", ValueError, r"candidates: expected rows in \[-1, 4\), got -2"),
        ([0, 1], "int32", ValueError, r"candidates: expected shape \(1, 'K'\), a list for each query, got \(2,\)"),
        ([[0], [1]], "int32", ValueError, r"candidates: expected shape \(1, 'K'\)"),
        ([[0.0]], "float32", TypeError, r"candidates: expected an integer dtype, got float32"),
    ],
)
def test_rerank_refuses(backend_name: str, candidates, dtype, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.rerank(
            zeros(backend_name, 1, 6), zeros(backend_name, 4, 6), array(backend_name, np.array(candidates), dtype), k=1
        )


@pytest.mark.parametrize(
    ("dims", "shortlists", "error", "message"),
    [
        ((2, 4), (5,), ValueError, r"shortlists: expected one length a stage \(2\), got 1"),
        ((2, 4), (5, 6), ValueError, r"shortlists: expected lengths that do not increase, got shortlists\[1\] = 6"),
        ((2, 4), (5, 0), ValueError, r"shortlists\[1\]: expected an integer of at least 1, got 0"),
        ((2, 4), 5, TypeError, r"shortlists: expected a sequence of lengths, got int"),
        ((4, 2), (5, 5), ValueError, r"dims\[1\] = 2 after 4"),
        ((2, 7), (5, 5), ValueError, r"dims: expected an integer in \[1, 6\], the width of the database, got 7"),
    ],
)
def test_funnel_refuses(backend_name: str, dims, shortlists, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.funnel_search(zeros(backend_name, 1, 6), zeros(backend_name, 4, 6), dims=dims, shortlists=shortlists)


def test_a_database_for_another_metric(backend_name: str) -> None:
    database = mrl.prepare_database(zeros(backend_name, 4, 6), (2,), metric="l2")
    with pytest.raises(ValueError, match=r"database: expected one prepared for 'cosine', got one for 'l2'; make it"):
        mrl.search(zeros(backend_name, 1, 6), database, k=1)
    mrl.search(zeros(backend_name, 1, 6), mrl.Database(database.vectors), k=1)  # of which nothing is prepared


def test_a_database_whose_parts_do_not_fit(backend_name: str) -> None:
    queries, rows = zeros(backend_name, 1, 6), zeros(backend_name, 4, 6)
    norms = zeros(backend_name, 4)
    for database, message in (
        (mrl.Database(rows, (zeros(backend_name, 3, 2),), norms), r"database\.prefixes\[0\]: expected one entry"),
        (mrl.Database(rows, (rows,), norms), r"database\.prefixes\[0\]: expected fewer than 6 columns"),
        (mrl.Database(rows, (), zeros(backend_name, 3)), r"database\.norms: expected one entry for each of 4 rows"),
        (mrl.Database(rows, (), rows), r"database\.norms: expected one entry for each of 4 rows, got shape \(4, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            mrl.search(queries, database, k=1)
    with pytest.raises(ValueError, match=r"database\.squares: expected 1 arrays, .* got 2"):
        mrl.search(queries, mrl.Database(rows, (), None, (norms, norms)), k=1, metric="l2")


@pytest.mark.parametrize(
    ("dims", "options", "error", "message"),
    [
        ((2, 7), {}, ValueError, r"dims: expected dimensions of at most 6, those of the database, got \(2, 7\)"),
        ((), {}, ValueError, r"dims: expected at least one"),
        ("24", {}, TypeError, r"dims: expected a sequence"),
        ((2,), {"metric": 3}, ValueError, r"metric: expected one of"),
        ((2,), {"progress": 1}, TypeError, r"progress: expected True or False"),
    ],
)
def test_prepare_refuses(backend_name: str, dims, options, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.prepare_database(zeros(backend_name, 4, 6), dims, **options)


def test_progress_needs_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.zeros((4, 6), np.float32)
    mrl.prepare_database(rows, (2,), progress=True)
    assert "prepare" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"progress needs tqdm .* run pip install tqdm"):
        mrl.prepare_database(rows, (2,), progress=True)
