"""The mistakes that a search can make: in what it scores, in what it keeps, and in the order of what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import spec
from ...retrieval.prepared import SearchResult
from ...spec.retrieval import best
from ..case import Mutant
from ..drivers import Result
from ..problems import Float, Problem

Scores = Callable[[Float, Float, int, str], Float]


def _right(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    return spec.retrieval_scores(queries, rows, dim=dim, metric=metric)


def _answer(
    problem: Problem,
    given: str,
    scores: Scores = _right,
    keep: Callable[[Float, int], SearchResult] = best,
    lists: Callable[[np.ndarray, int], np.ndarray] = lambda candidates, count: candidates,
    stages: slice = slice(None),
    fewer: int = 0,
) -> SearchResult:
    """A search, a rerank or a funnel with a mistake."""
    layout, rows = problem.layout, problem.targets
    assert rows is not None
    candidates = problem.labels if given == "rerank" else None
    plan = list(zip(layout.nesting.dims, layout.topk, strict=True))[stages]
    for place, (dim, k) in enumerate(plan):
        k = max(1, k - fewer) if place < len(plan) - 1 else layout.topk[-1]
        found = scores(problem.z, rows, dim, layout.metric)
        if candidates is not None:
            candidates = lists(candidates, len(rows)) if len(rows) else candidates[..., :0]
            among = np.zeros(found.shape, bool)
            for row in np.ndindex(found.shape[:-1]):
                among[(*row, candidates[row][candidates[row] >= 0])] = True
            found = np.where(among, found, np.nan)
        result = keep(found, k)
        candidates = result.indices
    return result


def _mistaken(given: str, **mistake: Any) -> Callable[[Result, Problem], Result | None]:
    def change(result: Result, problem: Problem) -> Result | None:
        found = _answer(problem, given, **mistake)
        return result._replace(outputs=[found.indices.astype(np.float64), found.scores])

    return change


def _sliced_alone(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    """Normalised at full width, then sliced."""
    if metric != "cosine":
        return _right(queries, rows, dim, metric)
    whole = rows.shape[-1]
    return _right(spec.truncate(queries, whole), spec.truncate(rows, whole), dim, "dot")


def _queries_alone(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    if metric != "cosine":
        return _right(queries, rows, dim, metric)
    return _right(spec.truncate(queries, dim), rows, dim, "dot")


def _one_more(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    return _right(queries, rows, dim + 1, metric)


def _one_late(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    return (
        _right(queries[..., 1:], rows[..., 1:], dim, metric)
        if rows.shape[-1] > 1
        else _right(queries, rows, dim, metric)
    )


def _distance(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    """Of which the smallest are not the best."""
    return _right(queries, rows, dim, metric) * (-1 if metric == "l2" else 1)


def _rooted(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    scores = _right(queries, rows, dim, metric)
    return -np.sqrt(-scores) if metric == "l2" else scores


def _without_norms(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    return 2 * _right(queries, rows, dim, "dot") if metric == "l2" else _right(queries, rows, dim, metric)


def _zeros_lost(queries: Float, rows: Float, dim: int, metric: str) -> Float:
    """What a division by a norm of zero gives."""
    scores = _right(queries, rows, dim, metric)
    if metric != "cosine":
        return scores
    empty = np.square(rows[:, :dim]).sum(-1) == 0
    return np.where(empty, np.nan, scores)


def _highest(scores: Float, k: int) -> SearchResult:
    """Of equals the last."""
    found = best(scores[..., ::-1], k)
    return SearchResult(found.scores, np.where(found.indices < 0, -1, scores.shape[-1] - 1 - found.indices))


def _with_nan(scores: Float, k: int) -> SearchResult:
    """As what sorts NaN above all numbers."""
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), -1, kind="stable")[..., :k]
    found = best(scores, k)
    indices = np.full(found.indices.shape, -1)
    indices[..., : order.shape[-1]] = order
    return SearchResult(found.scores, indices)


def _first_of_blocks(scores: Float, k: int) -> SearchResult:
    """Of every block of four rows the best alone."""
    left = scores.copy()
    for start in range(0, scores.shape[-1], 4):
        block = scores[..., start : start + 4]
        usable = np.where(np.isnan(block), -np.inf, block)
        first = np.arange(block.shape[-1]) == usable.argmax(-1)[..., None]
        left[..., start : start + 4] = np.where(first, block, np.nan)
    return best(left, k)


def _last_row_lost(scores: Float, k: int) -> SearchResult:
    """The end of a database whose length is no multiple of a block."""
    left = scores.copy()
    left[..., -1:] = np.nan
    return best(left, k)


def _edge_lost(scores: Float, k: int) -> SearchResult:
    """The next one in the place of the last."""
    found = best(scores, k + 1)
    keep = [*range(k - 1), k]
    return SearchResult(found.scores[..., keep], found.indices[..., keep])


def _zero_for_none(scores: Float, k: int) -> SearchResult:
    found = best(scores, k)
    return SearchResult(found.scores, np.maximum(found.indices, 0))


def _none_is_last(candidates: np.ndarray, count: int) -> np.ndarray:
    return np.where(candidates < 0, count - 1, candidates)


def _first_left_out(candidates: np.ndarray, count: int) -> np.ndarray:
    return candidates[..., 1:]


def _twice(result: Result, problem: Problem) -> Result | None:
    """What stands twice is returned twice."""
    layout, rows, given = problem.layout, problem.targets, problem.labels
    assert rows is not None
    if not len(rows):
        return None
    scores = _right(problem.z, rows, layout.nesting.dims[0], layout.metric)
    listed = np.sort(given, -1)
    found = best(np.where(listed < 0, np.nan, np.take_along_axis(scores, np.maximum(listed, 0), -1)), layout.topk[0])
    indices = np.where(found.indices < 0, -1, np.take_along_axis(listed, np.maximum(found.indices, 0), -1))
    return result._replace(outputs=[indices.astype(np.float64), found.scores])


def _shared(given: str) -> tuple[Mutant, ...]:
    scores = {
        "prefixes not normalised again": _sliced_alone,
        "rows not normalised": _queries_alone,
        "one dimension more": _one_more,
        "slice starts one late": _one_late,
        "largest distance first": _distance,
        "root of the distance": _rooted,
        "distance without norms": _without_norms,
        "zero rows lost": _zeros_lost,
    }
    keeps = {
        "ties to the highest index": _highest,
        "NaN returned": _with_nan,
        "first of a block alone": _first_of_blocks,
        "last row lost": _last_row_lost,
        "edge of the result lost": _edge_lost,
        "index 0 for nothing": _zero_for_none,
    }
    return (
        *(Mutant(name, result=_mistaken(given, scores=mistake)) for name, mistake in scores.items()),
        *(Mutant(name, result=_mistaken(given, keep=mistake)) for name, mistake in keeps.items()),
    )


SEARCH = _shared("search")

RERANK = (
    *_shared("rerank"),
    Mutant("none is the last row", result=_mistaken("rerank", lists=_none_is_last)),
    Mutant("first candidate left out", result=_mistaken("rerank", lists=_first_left_out)),
    Mutant("duplicates returned twice", result=_twice),
)

FUNNEL = (
    *_shared("funnel"),
    Mutant("first stage alone", result=_mistaken("funnel", stages=slice(0, 1))),
    Mutant("first stage left out", result=_mistaken("funnel", stages=slice(-1, None))),
    Mutant("shortlists one short", result=_mistaken("funnel", fewer=1)),
)
