"""Retrieval: all scores, sorted; candidates scored again; and a funnel of such steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..retrieval.prepared import SearchResult
from .truncate import truncate

Float = NDArray[np.float64]


def retrieval_scores(queries: ArrayLike, rows: ArrayLike, *, dim: int, metric: str = "cosine") -> Float:
    """The score of every row for every query, on their first ``dim`` dimensions.

    With ``q = queries[..., :dim]`` and ``x = rows[..., :dim]``: ``"cosine"`` is ``(q / ||q||) . (x / ||x||)``, where a
    prefix with a norm of at most 1e-12 counts as zeros; ``"dot"`` is ``q . x``; ``"l2"`` is ``-||q - x||^2``.

    Args:
        queries: ``(..., D)``.
        rows: ``(N, D)``.
        dim: how many leading dimensions count.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.

    Returns:
        ``(..., N)`` in float64.

    Example:
        >>> import mrl
        >>> mrl.spec.retrieval_scores([[3.0, 4.0]], [[1.0, 0.0], [3.0, 3.0]], dim=2, metric="l2").tolist()
        [[-20.0, -1.0]]

    Source: arXiv 2205.13147, section 4.3 and appendix E.
    """
    q, x = np.asarray(queries, np.float64)[..., :dim], np.asarray(rows, np.float64)[..., :dim]
    with np.errstate(all="ignore"):
        if metric == "l2":
            return np.asarray(-np.square(q[..., None, :] - x).sum(-1))
        if metric == "cosine":
            q, x = truncate(q, dim), truncate(x, dim)
        return np.asarray((q[..., None, :] * x).sum(-1))


def search(
    queries: ArrayLike, database: ArrayLike, *, k: int, dim: int | None = None, metric: str = "cosine"
) -> SearchResult:
    """The ``k`` rows with the largest scores: all of them, sorted by score and then by index.

    A row whose score is NaN or minus infinity is not among them. What is left of ``k`` places holds index -1 and score
    minus infinity.

    Args:
        queries: ``(..., D)``.
        database: ``(N, D)``.
        k: how many places there are.
        dim: how many leading dimensions count; ``None``: all.
        metric: as in :func:`retrieval_scores`.

    Returns:
        A :class:`mrl.SearchResult` of shape ``(..., k)``, float64 and int64.

    Example:
        >>> import mrl
        >>> mrl.spec.search([[1.0, 1.0]], [[0.0, 9.0], [2.0, 2.0], [1.0, 1.0]], k=2).indices.tolist()
        [[1, 2]]

    Source: arXiv 2205.13147, section 4.3.
    """
    rows = np.asarray(database)
    return best(retrieval_scores(queries, rows, dim=dim or rows.shape[-1], metric=metric), k)


def rerank(
    queries: ArrayLike,
    database: ArrayLike,
    candidates: ArrayLike,
    *,
    k: int,
    dim: int | None = None,
    metric: str = "cosine",
) -> SearchResult:
    """The best ``k`` of each query's own candidates: a search of these rows alone.

    Args:
        queries: ``(..., D)``.
        database: ``(N, D)``.
        candidates: ``(..., K)`` rows of the database; -1 stands for none, and what stands twice counts once.
        k: how many places there are.
        dim: how many leading dimensions count; ``None``: all.
        metric: as in :func:`retrieval_scores`.

    Returns:
        A :class:`mrl.SearchResult` of shape ``(..., k)``, float64 and int64.

    Example:
        >>> import mrl
        >>> mrl.spec.rerank([[1.0, 0.0]], [[2.0, 9.0], [2.0, 2.0], [1.0, 0.0]], [[1, 0, 1]], k=3).indices.tolist()
        [[1, 0, -1]]

    Source: arXiv 2205.13147, section 4.3.
    """
    rows, given = np.asarray(database), np.asarray(candidates)
    scores = retrieval_scores(queries, rows, dim=dim or rows.shape[-1], metric=metric)
    among = np.zeros(scores.shape, bool)
    for place in np.ndindex(scores.shape[:-1]):
        among[(*place, given[place][given[place] >= 0])] = True
    return best(np.where(among, scores, np.nan), k)


def funnel_search(
    queries: ArrayLike, database: ArrayLike, *, dims: Sequence[int], shortlists: Sequence[int], metric: str = "cosine"
) -> SearchResult:
    """A search with few dimensions, whose result is reranked with more and more.

    Args:
        queries: ``(..., D)``.
        database: ``(N, D)``.
        dims: leading dimensions of each stage.
        shortlists: how many rows each stage keeps; the last is the length of the result.
        metric: as in :func:`retrieval_scores`.

    Returns:
        A :class:`mrl.SearchResult` of shape ``(..., shortlists[-1])``, float64 and int64.

    Example:
        >>> import mrl
        >>> rows = [[2.0, 9.0], [2.0, 2.0], [-1.0, 0.0]]
        >>> mrl.spec.funnel_search([[1.0, 0.0]], rows, dims=(1, 2), shortlists=(2, 1)).indices.tolist()
        [[1]]

    Source: arXiv 2205.13147, section 4.3.1, "Funnel Retrieval".
    """
    result = search(queries, database, k=shortlists[0], dim=dims[0], metric=metric)
    for dim, kept in zip(dims[1:], shortlists[1:], strict=True):
        result = rerank(queries, database, result.indices, k=kept, dim=dim, metric=metric)
    return result


def best(scores: Float, k: int) -> SearchResult:
    """The ``k`` largest of the last axis, in order, the first of equals first; NaN and minus infinity are none."""
    usable = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-usable, axis=-1, kind="stable")[..., :k]
    found = np.take_along_axis(usable, order, -1)
    indices = np.where(found == -np.inf, -1, order)
    missing = [(0, 0)] * (scores.ndim - 1) + [(0, k - order.shape[-1])]
    return SearchResult(
        np.pad(found, missing, constant_values=-np.inf), np.pad(indices, missing, constant_values=-1).astype(np.int64)
    )
