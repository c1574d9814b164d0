"""The specification of retrieval, by hand."""

import numpy as np
import pytest

from mrl import spec

ROWS = [[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [np.nan, 0.0]]


@pytest.mark.parametrize(
    ("metric", "scores"),
    [
        ("cosine", [0.6, 0.0, 1.0, -1.0, 1.0, np.nan]),
        ("dot", [6.0, 0.0, 2.0, -2.0, 2.0, np.nan]),
        ("l2", [-17.0, -4.0, -1.0, -9.0, -1.0, np.nan]),
    ],
)
def test_scores(metric: str, scores: list[float]) -> None:
    np.testing.assert_allclose(spec.retrieval_scores([2.0, 0.0], ROWS, dim=2, metric=metric), scores, rtol=1e-15)


def test_a_prefix_is_normalised_by_itself() -> None:
    np.testing.assert_array_equal(spec.retrieval_scores([2.0, 9.0], ROWS, dim=1)[:4], [1.0, 0.0, 1.0, -1.0])


def test_the_order_is_by_score_and_then_by_index() -> None:
    found = spec.search([[2.0, 0.0]], ROWS, k=8)
    assert found.indices.tolist() == [[2, 4, 0, 1, 3, -1, -1, -1]]
    np.testing.assert_allclose(found.scores[0], [1, 1, 0.6, 0, -1, *[-np.inf] * 3])
    assert spec.search([[2.0, 0.0]], ROWS, k=1).indices.tolist() == [[2]]


def test_an_infinite_score_is_one_and_its_opposite_is_none() -> None:
    found = spec.search([[1.0]], [[1.0], [-np.inf], [np.inf]], k=3, metric="dot")
    assert found.indices.tolist() == [[2, 0, -1]]


def test_candidates_count_once_and_keep_the_order_of_the_database() -> None:
    found = spec.rerank([[2.0, 0.0]], ROWS, [[4, 3, 4, -1, 2, 5]], k=6)
    assert found.indices.tolist() == [[2, 4, 3, -1, -1, -1]]


def test_a_funnel_is_a_search_and_reranks() -> None:
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(3, 8)), rng.normal(size=(50, 8))
    first = spec.search(queries, rows, k=20, dim=2)
    second = spec.rerank(queries, rows, first.indices, k=7, dim=4)
    third = spec.rerank(queries, rows, second.indices, k=3, dim=8)
    found = spec.funnel_search(queries, rows, dims=(2, 4, 8), shortlists=(20, 7, 3))
    np.testing.assert_array_equal(found.indices, third.indices)
    np.testing.assert_array_equal(found.scores, third.scores)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2), (0,)])
def test_queries_of_any_leading_shape(lead: tuple[int, ...]) -> None:
    found = spec.search(np.ones((*lead, 2)), ROWS, k=2)
    assert found.scores.shape == found.indices.shape == (*lead, 2)
    assert found.indices.dtype == np.int64


def test_an_empty_database_has_nothing() -> None:
    found = spec.search(np.ones((1, 2)), np.ones((0, 2)), k=2)
    assert found.indices.tolist() == [[-1, -1]] and np.isneginf(found.scores).all()
