"""FAISS as the first stage of a funnel: the same neighbours where it is exact, and nothing that it did not find."""

from pathlib import Path

import numpy as np
import pytest
from mrl.adapters import faiss as adapter
from retrieval_cases import array, same

import mrl
from mrl import spec

WIDTH, COUNT = 48, 3000
SCALE = 0.93 ** np.arange(WIDTH)
ROWS = (np.random.default_rng(0).normal(size=(COUNT, WIDTH)) * SCALE).astype(np.float32)
QUERIES = (ROWS[::100] + 0.2 * np.random.default_rng(1).normal(size=(30, WIDTH)) * SCALE).astype(np.float32)
METRIC = pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])


@METRIC
@pytest.mark.parametrize(("dims", "shortlists"), [((8, 48), (200, 10)), ((4, 16, 48), (300, 60, 5)), ((48,), (7,))])
def test_an_exact_first_stage_finds_what_a_funnel_finds(metric: str, dims, shortlists) -> None:
    funnel = adapter.build(ROWS, dims=dims, shortlists=shortlists, metric=metric)
    expected = spec.funnel_search(QUERIES, ROWS, dims=dims, shortlists=shortlists, metric=metric)
    same(funnel.search(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_arrays_of_any_framework_and_a_plan(backend_name: str) -> None:
    plan = mrl.plan_funnel(QUERIES, ROWS, (8, 16, 48), k=5, recall=0.9)
    rows = array(backend_name, ROWS)
    funnel = adapter.build(mrl.prepare_database(rows, (8,)), dims=plan.dims, shortlists=plan.shortlists)
    found = funnel.search(array(backend_name, QUERIES), k=3)
    same(found, mrl.SearchResult(*(x[:, :3] for x in plan.search(QUERIES, ROWS))), rtol=1e-4, atol=1e-4)


def test_the_prefix_is_the_first_dimensions_and_lies_in_the_index() -> None:
    funnel = adapter.build(ROWS, dims=(8, 48), shortlists=(20, 5))
    found = funnel.index.search(QUERIES, 20)[1]
    np.testing.assert_array_equal(found, spec.search(QUERIES, ROWS, k=20, dim=8).indices)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@METRIC
def test_approximate_first_stages(kind: str, metric: str) -> None:
    funnel = adapter.build(ROWS, dims=(8, 48), shortlists=(200, 10), metric=metric, kind=kind, probes=40)
    if kind == "hnsw":
        import faiss

        assert faiss.downcast_index(funnel.index.index).hnsw.efSearch >= 200
    exact = spec.funnel_search(QUERIES, ROWS, dims=(8, 48), shortlists=(200, 10), metric=metric)
    assert mrl.metrics.recall_at_k(funnel.search(QUERIES).indices, exact.indices, 10) > 0.8


def test_a_place_without_an_answer_is_never_a_row() -> None:
    funnel = adapter.build(ROWS[:5], dims=(8, 48), shortlists=(20, 10))
    found = funnel.search(QUERIES[:3])
    same(found, spec.search(QUERIES[:3], ROWS[:5], k=10), rtol=1e-4, atol=1e-4)
    assert (found.indices[:, 5:] == -1).all()
    assert funnel.search(QUERIES[:0]).indices.shape == (0, 10) and funnel.search(QUERIES[0]).indices.shape == (10,)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("vectors", [True, False])
def test_what_is_saved_is_loaded(kind: str, vectors: bool, tmp_path: Path) -> None:
    funnel = adapter.build(ROWS, dims=(8, 16, 48), shortlists=(200, 50, 10), kind=kind)
    funnel.save(tmp_path / "funnel", vectors=vectors)
    loaded = adapter.load(tmp_path / "funnel", vectors=None if vectors else ROWS)
    before, after = funnel.search(QUERIES), loaded.search(QUERIES)
    np.testing.assert_array_equal(before.indices, after.indices)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert isinstance(loaded.vectors, np.memmap) == vectors
    if not vectors:
        with pytest.raises(ValueError, match=r"vectors: expected those that .* was built of, which it does not hold"):
            adapter.load(tmp_path / "funnel")
        with pytest.raises(ValueError, match=r"vectors: expected shape \(3000, 48\) .*, got \(2999, 48\)"):
            adapter.load(tmp_path / "funnel", vectors=ROWS[1:])
        with pytest.raises(ValueError, match=r"and 3000 with other numbers; pass those"):
            adapter.load(tmp_path / "funnel", vectors=ROWS[::-1])
    (tmp_path / "funnel" / "funnel.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"expected what FaissFunnel\.save writes, got other: its format is 'other'"):
        adapter.load(tmp_path / "funnel")


def test_a_funnel_is_saved_where_it_was_loaded(tmp_path: Path) -> None:
    """Whose vectors are mapped from the file that is written; and an interrupted save leaves what was there."""
    adapter.build(ROWS, dims=(8, 48), shortlists=(200, 10)).save(tmp_path)
    expected = adapter.load(tmp_path).search(QUERIES).indices
    for vectors in (True, True, False):
        funnel = adapter.load(tmp_path)
        funnel.save(tmp_path, vectors=vectors)
        np.testing.assert_array_equal(funnel.search(QUERIES).indices, expected)
    again = adapter.load(tmp_path, vectors=funnel.vectors)
    np.testing.assert_array_equal(again.search(QUERIES).indices, expected)
    assert len([*tmp_path.glob("*.faiss")]) == len([*tmp_path.glob("*.npy")]) == 1


@pytest.mark.parametrize("part", ["write_index", "save"])
def test_an_interrupted_save_leaves_what_was_there(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter.build(ROWS, dims=(8, 48), shortlists=(200, 10)).save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    other = adapter.build(ROWS[::-1], dims=(4, 48), shortlists=(20, 1))

    def full(*_: object) -> None:
        raise OSError("no space is left")

    monkeypatch.setattr(adapter.faiss if part == "write_index" else np, part, full)
    with pytest.raises(OSError, match="no space"):
        other.save(tmp_path)
    monkeypatch.undo()
    loaded = adapter.load(tmp_path)
    assert loaded.dims == (8, 48) and (loaded.vectors == ROWS).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_halves_come_back(tmp_path: Path) -> None:
    for dtype in (np.float16, pytest.importorskip("ml_dtypes").bfloat16):
        with np.errstate(under="ignore"):
            rows = ROWS.astype(dtype)
        funnel = adapter.build(rows, dims=(8, 48), shortlists=(200, 10))
        funnel.save(tmp_path)
        loaded = adapter.load(tmp_path)
        assert loaded.vectors.dtype == dtype
        np.testing.assert_array_equal(loaded.search(QUERIES).indices, funnel.search(QUERIES).indices)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "pq"}, ValueError, r"kind: expected one of \('flat', 'hnsw', 'ivf'\), got 'pq'"),
        ({"metric": "angle"}, ValueError, r"metric: expected one of"),
        (
            {"dims": (8, 49)},
            ValueError,
            r"dims: expected dimensions of at most 48, .* got \(8, 49\)",
        ),
        ({"shortlists": (5,)}, ValueError, r"shortlists: expected one length a stage"),
        ({"kind": "ivf", "cells": 0}, ValueError, r"cells: expected an integer of at least 1"),
        ({"kind": "ivf", "probes": 0}, ValueError, r"probes: expected an integer of at least 1"),
        ({"neighbours": 1}, ValueError, r"neighbours: expected an integer of at least 2"),
    ],
)
def test_build_refuses(options: dict, error, message) -> None:
    with pytest.raises(error, match=message):
        adapter.build(ROWS, **{"dims": (8, 48), "shortlists": (20, 5), **options})


def test_search_refuses() -> None:
    funnel = adapter.build(ROWS, dims=(8, 48), shortlists=(20, 5))
    with pytest.raises(ValueError, match=r"k: expected an integer in \[1, 5\], what the last stage keeps, got 6"):
        funnel.search(QUERIES, k=6)
    with pytest.raises(ValueError, match=r"queries: expected shape \(\.\.\., 48\), as wide as the database"):
        funnel.search(QUERIES[:, :8])
    with pytest.raises(TypeError, match="queries: expected a dtype of"):
        funnel.search(np.ones((1, 48), int))
