"""The nearest rows of every query, by every method and size, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..retrieval import search
from .placing import Place
from .source import Float, Rows, Track
from .ways import Way, unit_rows

Indices = NDArray[np.int64]
Method = tuple[str, int]
"""A method and a size."""


class Queries(NamedTuple):
    """What is asked.

    Attributes:
        vectors: ``(Q, D)``.
        own: ``(Q,)`` the position of a query that is a row itself, and is no neighbour of its own; -1 where it is none.
        asked: ``(Q,)`` whether its neighbours are compared with those of the full width; the others are asked for
            their labels alone.
        labels: ``(Q,)`` the class of each, -1 where it has none.
        relevant: ``(Q, R)`` the positions of the relevant rows, filled up with -1; ``None`` where nobody knows them.
    """

    vectors: Float
    own: Indices
    asked: NDArray[np.bool_]
    labels: Indices
    relevant: Indices | None


def nearest(
    rows: Rows,
    queries: Queries,
    ways: Sequence[Way],
    sizes: Sequence[int],
    *,
    k: int,
    place: Place,
    track: Track = iter,
) -> dict[Method, Indices]:
    """``(Q, k)`` positions for every method and size: those of a search through all rows, without a query itself."""
    turned = {way.name: place.moved(way.turn(queries.vectors)) for way in ways}
    found: dict[Method, tuple[Float, Indices]] = {}
    for start, x in rows.chunks(track):
        for way in ways:
            y = place.moved(way.turn(x))
            for m in searched(way, sizes, y.shape[1]):
                best = search(turned[way.name], y, k=min(k + 1, len(x)), dim=m, metric=way.metric)
                scores, indices = (place.brought(array) for array in best)
                indices = np.where(indices >= 0, indices.astype(np.int64) + start, -1)
                found[way.name, m] = merged(found.get((way.name, m)), scores, indices, k + 1)
    nearest = {method: without_own(indices, queries.own, k) for method, (_, indices) in found.items()}
    width = sizes[-1]
    for way in ways:
        if way.exact and (way.name, width) not in nearest:
            nearest[way.name, width] = nearest["prefix", width]
    return nearest


def searched(way: Way, sizes: Sequence[int], width: int) -> list[int]:
    """The sizes that a method is searched at: not the full one, where it is the prefix again."""
    return [m for m in sizes if m <= width and not (way.exact and way.name != "prefix" and m == sizes[-1])]


def merged(before: tuple[Float, Indices] | None, scores: Float, indices: Indices, k: int) -> tuple[Float, Indices]:
    """The ``k`` best of two lists a query, by score and then by lowest index; all of the second come later."""
    if before is not None:
        scores = np.concatenate([before[0], scores], 1)
        indices = np.concatenate([before[1], indices], 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)


def without_own(indices: Indices, own: Indices, k: int) -> Indices:
    """The first ``k`` that are not the query itself."""
    itself = indices == np.where(own < 0, -2, own)[:, None]
    order = np.argsort(itself, axis=1, kind="stable")
    left = np.take_along_axis(np.where(itself, -1, indices), order, 1)[:, :k]
    return np.pad(left, ((0, 0), (0, k - left.shape[1])), constant_values=-1)


def pools(count: int, own: Indices, size: int, seed: int) -> Indices:
    """``(Q, P)`` positions for every query, each drawn by itself from the other rows, none twice."""
    rng = np.random.default_rng(seed)
    found = []
    for mine in own:
        others = count - (mine >= 0)
        drawn = rng.choice(others, min(size, others), replace=False)
        found.append(drawn + ((drawn >= mine) & (mine >= 0)))
    return np.stack([row[: min(map(len, found))] for row in found]).astype(np.int64)


def correlations(
    rows: Rows, queries: Queries, pool: Indices, ways: Sequence[Way], sizes: Sequence[int]
) -> dict[Method, NDArray[np.float64]]:
    """Kendall's tau-b of a query's scores of its pool and those at the full width, for every method and size."""
    count, size = pool.shape
    found: dict[Method, list[NDArray[np.float64]]] = {}
    step = max(1, 8192 // max(1, size))
    for first in range(0, count, step):
        part = slice(first, first + step)
        x = rows.take(pool[part].reshape(-1))
        q = queries.vectors[part]
        truth = signs_of_pairs(scores_of(q, x.reshape(len(q), size, -1), ways[0].metric))
        for way in ways:
            a, b = way.turn(q), way.turn(x)
            b = b.reshape(len(q), size, b.shape[1])
            for m in sizes:
                if m > a.shape[1]:
                    continue
                if way.exact and m == sizes[-1]:
                    tau = np.ones(len(q))
                else:
                    tau = tau_b(truth, signs_of_pairs(scores_of(a[:, :m], b[:, :, :m], way.metric)))
                found.setdefault((way.name, m), []).append(tau)
    return {method: np.concatenate(parts) for method, parts in found.items()}


def scores_of(q: Float, x: Float, metric: str) -> Float:
    """``(Q, P)`` scores of each query's own rows, as :func:`mrl.search` defines them."""
    if metric == "l2":
        found: Float = -np.square(x - q[:, None]).sum(-1)
        return found
    if metric == "cosine":
        q, x = unit_rows(q), unit_rows(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    scores: Float = np.matmul(x, q[:, :, None])[:, :, 0]
    return scores


def signs_of_pairs(scores: Float) -> NDArray[np.int8]:
    """``(Q, pairs)`` which of each two rows has the larger score: 1, -1, or 0 where they are equal."""
    first, second = np.triu_indices(scores.shape[1], 1)
    a, b = scores[:, first], scores[:, second]
    return (a > b).astype(np.int8) - (a < b).astype(np.int8)


def tau_b(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.float64]:
    """Kendall's tau-b from the signs of pairs; NaN where all scores are equal.

    Source: Kendall, Biometrika 33 (1945).
    """
    agreeing = np.einsum("qp,qp->q", a, b, dtype=np.int64)
    untied = np.count_nonzero(a, 1) * np.count_nonzero(b, 1).astype(np.float64)
    return np.where(untied > 0, agreeing / np.sqrt(np.maximum(untied, 1)), np.nan)
