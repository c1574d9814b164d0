"""Qdrant as a funnel: the neighbours of an exact one, nothing that a shortlist had not, and no row lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mrl.adapters import qdrant as adapter
from qdrant_client import QdrantClient, models
from qdrant_server import serving
from retrieval_cases import array, same

import mrl
from mrl import spec

WIDTH, COUNT = 48, 1000
SCALE = 0.93 ** np.arange(WIDTH)
ROWS = (np.random.default_rng(0).normal(size=(COUNT, WIDTH)) * SCALE).astype(np.float32)
QUERIES = (ROWS[::100] + 0.2 * np.random.default_rng(1).normal(size=(10, WIDTH)) * SCALE).astype(np.float32)
METRIC = pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
FUNNEL: dict[str, Any] = {"dims": (8, 48), "shortlists": (50, 10)}
THIRD = models.Filter(must=[models.FieldCondition(key="rest", match=models.MatchValue(value=1))])


class Broken(Exception):
    pass


def failing(client: QdrantClient, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A client whose connection breaks after so many batches."""
    upload, sent = client.upload_collection, []

    def breaks(*arguments: Any, **options: Any) -> None:
        if len(sent) == after:
            raise Broken
        sent.append(None)
        upload(*arguments, **options)

    monkeypatch.setattr(client, "upload_collection", breaks)


@METRIC
@pytest.mark.parametrize(
    ("dims", "shortlists"), [((8, 48), (200, 10)), ((4, 16, 48), (300, 60, 5)), ((8, 16), (50, 5)), ((48,), (7,))]
)
def test_the_neighbours_are_those_of_an_exact_funnel(metric: str, dims, shortlists) -> None:
    with adapter.build(ROWS, dims=dims, shortlists=shortlists, metric=metric) as funnel:
        found = funnel.search(QUERIES)
    same(
        found, spec.funnel_search(QUERIES, ROWS, dims=dims, shortlists=shortlists, metric=metric), rtol=1e-4, atol=1e-4
    )
    assert found.scores.dtype == np.float32 and found.indices.dtype == np.int64


def test_arrays_of_any_framework_and_a_plan(backend_name: str) -> None:
    plan = mrl.plan_funnel(np.concatenate([QUERIES] * 3), ROWS, (8, 16, 48), k=5, recall=0.9)
    rows = mrl.prepare_database(array(backend_name, ROWS), (8,))
    funnel = adapter.build(rows, dims=plan.dims, shortlists=plan.shortlists)
    found = funnel.search(array(backend_name, QUERIES), k=3)
    same(found, mrl.SearchResult(*(x[:, :3] for x in plan.search(QUERIES, ROWS))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(dtype: str) -> None:
    with np.errstate(under="ignore"):
        rows, queries = ROWS.astype(dtype), QUERIES.astype(dtype)
    found = adapter.build(rows, **FUNNEL).search(queries)
    same(found, spec.funnel_search(queries, rows, **FUNNEL), rtol=1e-3, atol=1e-3)


def test_what_is_found_was_in_every_shortlist() -> None:
    """The best rows at full width are kept out of the first stage, and do not come back."""
    rows = ROWS.copy()
    rows[500:, :8] = -np.sign(QUERIES[0, :8])
    rows[500:, 8:] = 100 * QUERIES[0, 8:]
    found = adapter.build(rows, dims=(8, 16, 48), shortlists=(20, 12, 12)).search(QUERIES[:1])
    first = spec.search(QUERIES[:1], rows, k=20, dim=8).indices
    assert set(found.indices[0]) <= set(first[0]) and (found.indices >= 0).sum() == 12
    assert (spec.search(QUERIES[:1], rows, k=12).indices[:, 1:] >= 500).all()


@METRIC
def test_a_filter_passes_before_the_shortlist_is_cut(metric: str) -> None:
    payloads = [{"rest": i % 3} for i in range(COUNT)]
    for funnel in (FUNNEL, {"dims": (48,), "shortlists": (10,)}):
        index = adapter.build(ROWS, **funnel, metric=metric, payloads=payloads)
        found = index.search(QUERIES, filter=THIRD)
        expected = spec.funnel_search(QUERIES, ROWS[1::3], **funnel, metric=metric)
        same(found, mrl.SearchResult(expected.scores, 3 * expected.indices + 1), rtol=1e-4, atol=1e-4)
    nothing = models.Filter(must_not=[models.HasIdCondition(has_id=list(range(2, COUNT)))])
    found = index.search(QUERIES, k=4, filter=nothing)
    assert (np.sort(found.indices[:, :2]) == (0, 1)).all() and (found.indices[:, 2:] == -1).all()
    assert np.isneginf(found.scores[:, 2:]).all() and np.isfinite(found.scores[:, :2]).all()


def test_places_without_an_answer_and_rows_that_are_equal() -> None:
    rows = np.concatenate([ROWS[:2], ROWS[:2], np.zeros((1, WIDTH), np.float32), 1e-9 * ROWS[2:3]])
    funnel = adapter.build(rows, dims=(8, 48), shortlists=(20, 10))
    same(funnel.search(ROWS[:3]), spec.search(ROWS[:3], rows, k=10), rtol=1e-4, atol=1e-4)
    assert funnel.search(QUERIES[:0]).indices.shape == (0, 10) and funnel.search(QUERIES[0]).indices.shape == (10,)
    assert funnel.search(QUERIES[:6].reshape(2, 3, WIDTH)).scores.shape == (2, 3, 10)
    odd = np.stack([ROWS[0], np.full(WIDTH, np.nan), np.full(WIDTH, 1e300)])
    assert (funnel.search(odd).indices[:, 0] == (0, -1, -1)).all()
    empty = adapter.build(ROWS[:0], **FUNNEL)
    assert (empty.search(QUERIES).indices == -1).all()


def test_one_nested_query_is_the_funnel(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    funnel = adapter.build(ROWS, dims=(4, 16, 48), shortlists=(300, 60, 5), location=client, exact=True)
    seen: list[models.QueryRequest] = []
    ask = client.query_batch_points

    def asks(name: str, requests: list[models.QueryRequest]) -> Any:
        seen.extend(requests)
        return ask(name, requests)

    monkeypatch.setattr(client, "query_batch_points", asks)
    funnel.search(QUERIES[0], k=3, filter=THIRD)
    (outer,) = seen
    middle, inner = outer.prefetch, outer.prefetch.prefetch
    assert [(x.using, x.limit) for x in (outer, middle, inner)] == [("48", 3), ("16", 60), ("4", 300)]
    assert [x.filter for x in (outer, middle, inner)] == [None, None, THIRD] and inner.prefetch is None
    config = client.get_collection("mrl").config.params.vectors
    assert [config[m].hnsw_config is None for m in ("4", "16", "48")] == [True, False, False]
    assert config["48"].hnsw_config.m == 0


def test_a_restart_and_an_upload_that_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ROWS[:90]  # a folder is written a point at a time
    place, options = tmp_path / "funnel", {**FUNNEL, "payloads": [{"rest": i % 3} for i in range(90)]}
    with monkeypatch.context() as patched:
        client = QdrantClient(path=str(place))
        failing(client, patched, after=3)
        with pytest.raises(Broken) as broken:
            adapter.build(rows, **options, location=client, batch_size=20)
    assert "go on with build(..., resume=True)" in broken.value.__notes__[0]
    client.close()
    message = r"expected all 90 rows in 'mrl', got 60, which stay there; finish the upload with build\(.*resume=True"
    with pytest.raises(ValueError, match=message):
        adapter.open(place)
    with adapter.open(place, partial=True) as funnel:
        found = funnel.search(QUERIES)
        same(found, spec.funnel_search(QUERIES, rows[:60], **FUNNEL), rtol=1e-4, atol=1e-4)
        funnel.client.set_payload("mrl", {"rest": 7}, points=[5])
    with pytest.raises(ValueError, match=r"expected a name that is free, got 'mrl', which holds 60 points; .*resume"):
        adapter.build(rows, **options, location=place)
    for changed in (rows[:-1], rows[::-1]):
        with pytest.raises(ValueError, match=r"expected one that was begun with the same database and funnel"):
            adapter.build(changed, **FUNNEL, location=place, resume=True)
    with pytest.raises(ValueError, match=r"with dims \[8, 48\] and not \[16, 48\]; pass those that it was begun with"):
        adapter.build(rows, dims=(16, 48), shortlists=(50, 10), location=place, resume=True)
    with adapter.build(rows, **options, location=place, resume=True, batch_size=25) as funnel:
        (kept,) = funnel.client.retrieve("mrl", [5])
        assert kept.payload == {"rest": 7}  # what was there was not sent again
        before = funnel.search(QUERIES)
    with adapter.open(place) as funnel:
        assert (funnel.dims, funnel.shortlists, funnel.metric, funnel.rows) == ((8, 48), (50, 10), "cosine", 90)
        after = funnel.search(QUERIES)
        assert (funnel.search(QUERIES, filter=THIRD).indices % 3 == 1).all()
    same(after, before)
    same(after, spec.funnel_search(QUERIES, rows, **FUNNEL), rtol=1e-4, atol=1e-4)


def test_a_cluster_by_its_url_takes_the_same_code() -> None:
    rows, kinds = ROWS[:300], [{"rest": i % 3} for i in range(300)]
    expected = spec.funnel_search(QUERIES, rows, **FUNNEL)
    with serving() as server:
        with adapter.build(rows, **FUNNEL, payloads=kinds, location=server.url, batch_size=128, exact=True) as funnel:
            same(funnel.search(QUERIES), expected, rtol=1e-4, atol=1e-4)
        assert funnel._params(5) == models.SearchParams(exact=True)
        server.client.delete("mrl", list(range(40, 60)))
        with pytest.raises(ValueError, match="expected all 300 rows in 'mrl', got 280"):
            adapter.open(server.url)
        server.requests.clear()
        with adapter.build(rows, **FUNNEL, payloads=kinds, location=server.url, resume=True):
            sent = [body for method, path, body in server.requests if (method, path[-7:]) == ("PUT", "/points")]
        points = [point for body in sent for point in body["points"]]
        assert [point["id"] for point in points] == list(range(40, 60))
        for name in ("8", "48"):
            vectors = np.array([point["vector"][name] for point in points])
            np.testing.assert_allclose(vectors, spec.truncate(rows[40:60], int(name)), rtol=1e-5, atol=1e-6)
        with adapter.open(server.url) as funnel:
            same(funnel.search(QUERIES), expected, rtol=1e-4, atol=1e-4)
            assert (funnel.search(QUERIES, filter=THIRD).indices % 3 == 1).all()
        outer = server.requests[-1][2]["searches"][0]
        assert outer["params"]["hnsw_ef"] == outer["prefetch"]["params"]["hnsw_ef"] == 128
        assert (outer["using"], outer["prefetch"]["using"], outer.get("filter")) == ("48", "8", None)
        assert [funnel._params(k).hnsw_ef for k in (5, 300)] == [128, 300]


def test_a_client_that_is_given_stays_open_and_its_own_is_closed(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    adapter.build(ROWS[:20], **FUNNEL, location=client, collection="one").close()
    with adapter.open(client, collection="one") as funnel:
        assert funnel.search(ROWS[3]).indices[0] == 3
    with pytest.raises(ValueError, match=r"collection: expected one of \['one'\], got 'two'; build it, or choose one"):
        adapter.open(client, collection="two")
    client.create_collection("bare", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    with pytest.raises(
        ValueError, match=r"expected one that mrl\.adapters\.qdrant\.build has made, got 'bare' without"
    ):
        adapter.open(client, collection="bare")
    client.close()
    with pytest.raises(ValueError, match="expected one of") as opened:
        adapter.open(tmp_path, collection="two")
    with pytest.raises(ValueError, match="expected a name that is free") as built:
        adapter.build(ROWS[:20], **FUNNEL, location=tmp_path, collection="one")
    adapter.open(tmp_path, collection="one").close()
    assert opened.tb and built.tb  # the refusals are held, and let go of the folder


def test_a_collection_whose_vectors_are_others() -> None:
    client = QdrantClient(":memory:")
    adapter.build(ROWS[:60], **FUNNEL, location=client)
    metadata = client.get_collection("mrl").config.metadata
    vectors = {name: models.VectorParams(size=4, distance=models.Distance.COSINE) for name in ("8", "48")}
    client.create_collection("odd", vectors_config=vectors, metadata=metadata)
    with pytest.raises(ValueError, match=r"expected vectors of sizes {'8': 8, '48': 48}, got 'odd' with {'8': 4, '48'"):
        adapter.open(client, collection="odd")


def test_an_upload_that_loses_rows_is_no_funnel(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "upload_collection", lambda *_, **__: None)
    with pytest.raises(ValueError, match="expected all 60 rows in 'mrl', got 0"):
        adapter.build(ROWS[:60], **FUNNEL, location=client)


def test_more_queries_than_one_request_takes() -> None:
    queries = np.tile(QUERIES, (14, 1))
    found = adapter.build(ROWS[:60], **FUNNEL).search(queries)
    same(found, spec.funnel_search(queries, ROWS[:60], **FUNNEL), rtol=1e-4, atol=1e-4)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    adapter.build(ROWS[:60], **FUNNEL, batch_size=20, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "angle"}, ValueError, r"metric: expected one of"),
        ({"dims": (8, 49)}, ValueError, r"dims: expected dimensions of at most 48, .* got \(8, 49\)"),
        ({"shortlists": (5,)}, ValueError, r"shortlists: expected one length a stage"),
        ({"batch_size": 0}, ValueError, r"batch_size: expected an integer of at least 1"),
        ({"exact": 1}, TypeError, r"exact: expected True or False"),
        ({"payloads": [{}]}, ValueError, r"payloads: expected one a row \(1000\), got 1; {} is none"),
        ({"payloads": [None] * COUNT}, TypeError, r"payloads\[0\]: expected a mapping, got NoneType"),
        ({"payloads": iter(())}, TypeError, r"payloads: expected a sequence of mappings"),
        ({"location": 6333}, TypeError, r"location: expected ':memory:', a folder, a URL or a QdrantClient, got int"),
        ({"location": "localhost:6333"}, ValueError, r"location: expected a URL .*; write 'http://localhost:6333'"),
    ],
)
def test_build_refuses(options: dict, error, message) -> None:
    with pytest.raises(error, match=message):
        adapter.build(ROWS, **{**FUNNEL, **options})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_rows_that_qdrant_would_not_take(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ROWS.astype(np.float64)
    rows[700, 3] = wrong
    monkeypatch.setattr("mrl.adapters.qdrant.collection.PART", 300)
    with pytest.raises(
        ValueError, match=r"database: expected numbers that are finite in float32, got others in row 700"
    ):
        adapter.build(rows, **FUNNEL)


def test_open_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got ':memory:', which is empty; pass the client of the funnel"):
        adapter.open(":memory:")
    with pytest.raises(FileNotFoundError, match=r"location: expected a folder that build has filled"):
        adapter.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_search_refuses() -> None:
    funnel = adapter.build(ROWS[:60], **FUNNEL)
    with pytest.raises(ValueError, match=r"k: expected an integer in \[1, 10\], what the last stage keeps, got 11"):
        funnel.search(QUERIES, k=11)
    with pytest.raises(ValueError, match=r"queries: expected shape \(\.\.\., 48\), as wide as the database"):
        funnel.search(QUERIES[:, :8])
    with pytest.raises(TypeError, match="queries: expected a dtype of"):
        funnel.search(np.ones((1, 48), int))
    with pytest.raises(TypeError, match=r"filter: expected a qdrant_client\.models\.Filter, got dict"):
        funnel.search(QUERIES, filter={"rest": 1})
