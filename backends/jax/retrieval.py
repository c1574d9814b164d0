"""Exact search by the maxima of blocks, with static shapes; candidates, scored again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mrl.retrieval.planning import BLOCK, Tile, plan_gather, plan_passes
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import lift, on_host, wide_dtype
from .losses import truncate
from .scores import candidate_scores, row_norms, tile_scores


def search(
    queries: Array,
    rows: Array,
    lengths: Array | None,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> SearchResult:
    wide, lead = wide_dtype(queries, rows), queries.shape[:-1]
    q = lax.stop_gradient(queries)[..., :dim].reshape(math.prod(lead), dim).astype(wide)
    rows, lengths = lax.stop_gradient((rows, lengths))
    if not len(q) or not len(rows):
        return SearchResult(jnp.full((*lead, k), -jnp.inf, wide), jnp.full((*lead, k), -1))
    plan, picks = plan_passes(len(q), len(rows), dim, k, wide.itemsize, on_host=on_host(queries), tile=tile)
    found = _search(q, rows, lengths, k=k, metric=metric, normalized=normalized, plan=plan, picks=picks)
    return SearchResult(*(field.reshape(*lead, k) for field in found))


def rerank(
    queries: Array,
    rows: Array,
    lengths: Array | None,
    candidates: Array,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> SearchResult:
    wide, lead = wide_dtype(queries, rows), queries.shape[:-1]
    q = lax.stop_gradient(queries)[..., :dim].reshape(math.prod(lead), dim).astype(wide)
    rows, lengths = lax.stop_gradient((rows, lengths))
    if not len(q) or not len(rows) or not candidates.shape[-1]:
        return SearchResult(jnp.full((*lead, k), -jnp.inf, wide), jnp.full((*lead, k), -1))
    given = candidates.reshape(len(q), candidates.shape[-1])
    together = plan_gather(given.shape[1], dim, wide.itemsize, on_host=on_host(queries), queries=len(q))
    found = _rerank(q, rows, lengths, given, k=k, metric=metric, normalized=normalized, together=together)
    return SearchResult(*(field.reshape(*lead, k) for field in found))


def prepare_database(rows: Array, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    narrow = tuple(m for m in dims if m < rows.shape[1])
    prefixes = tuple(_prefix(rows, dim=m, metric=metric) for m in track([*narrow]))
    if metric == "cosine":
        return Database(rows, prefixes, row_norms(rows))
    squares = tuple(_squares(rows, dim=m) for m in (*narrow, rows.shape[1]))
    return Database(rows, prefixes, None, squares if metric == "l2" else None)


@partial(jax.jit, static_argnames=("k", "metric", "normalized", "plan", "picks"))
def _search(
    q: Array,
    rows: Array,
    lengths: Array | None,
    *,
    k: int,
    metric: str,
    normalized: bool,
    plan: Tile,
    picks: bool,
) -> tuple[Array, Array]:
    offsets = jnp.square(q).sum(-1) if metric == "l2" else jnp.zeros(len(q), q.dtype)
    q = truncate(q, q.shape[1], normalize=True) if metric == "cosine" else q

    def few(part: tuple[Array, Array]) -> tuple[Array, Array]:
        q, offsets = part
        score = partial(tile_scores, q, offsets, rows, lengths, metric=metric, normalized=normalized)
        return (
            _by_picks(q, offsets, rows, lengths, score, k, metric, normalized, plan.rows)
            if picks
            else (_by_tiles(partial(score, rows_first=False), q, len(rows), k, plan.rows))
        )

    return _in_parts(few, (q, offsets), plan.queries)


@partial(jax.jit, static_argnames=("k", "metric", "normalized", "together"))
def _rerank(
    q: Array,
    rows: Array,
    lengths: Array | None,
    given: Array,
    *,
    k: int,
    metric: str,
    normalized: bool,
    together: int,
) -> tuple[Array, Array]:
    q = truncate(q, q.shape[1], normalize=True) if metric == "cosine" else q
    # In order of the index, because the first of equals wins.
    given = jnp.sort(given.astype(int), -1)
    again = jnp.pad(given[:, 1:] == given[:, :-1], ((0, 0), (1, 0)))
    given = jnp.where(again | (given >= len(rows)), -1, given)

    def few(part: tuple[Array, Array]) -> tuple[Array, Array]:
        q, given = part
        scores = candidate_scores(q, rows, lengths, jnp.maximum(given, 0), metric, normalized)
        return _best(jnp.where(given < 0, -jnp.inf, scores), given, k)

    return _in_parts(few, (q, given), together)


def _by_picks(
    q: Array,
    offsets: Array,
    rows: Array,
    lengths: Array | None,
    score: Callable[[Any, int], Array],
    k: int,
    metric: str,
    normalized: bool,
    size: int,
) -> tuple[Array, Array]:
    """The maxima of blocks, and of blocks of blocks: the best ``k`` lie in the best ``k`` of either.

    Blocks are ordered by their maximum and then by their place: an element outside of the first ``k`` has as many
    better ones before it. Those picked are put in order of their place again, so that the first of equals wins.
    """
    count = len(rows)
    whole, rest = count // size, count % size

    def largest(start: Any, size: int) -> Array:
        scores = score(start, size)
        scores = jnp.pad(scores, ((0, -size % BLOCK), (0, 0)), constant_values=-jnp.inf)
        return scores.reshape(-1, BLOCK, len(q)).max(1)

    parts = []
    if whole:
        parts.append(lax.map(lambda i: largest(i * size, size), jnp.arange(whole)).reshape(-1, len(q)))
    if rest:
        parts.append(largest(whole * size, rest))
    fine = jnp.concatenate(parts)
    fine = jnp.pad(fine, ((0, -len(fine) % BLOCK), (0, 0)), constant_values=-jnp.inf)
    coarse = fine.reshape(-1, BLOCK, len(q)).max(1).T
    blocks = _within(_picked(coarse, k))
    blocks = jnp.take_along_axis(blocks, _picked(jnp.take_along_axis(fine.T, blocks, 1), k), 1)
    places = _within(blocks)
    scores = candidate_scores(q, rows, lengths, jnp.minimum(places, count - 1), metric, normalized, expanded=offsets)
    return _best(jnp.where(places < count, scores, -jnp.inf), places, k)


def _picked(values: Array, k: int) -> Array:
    return jnp.sort(lax.top_k(values, min(k, values.shape[1]))[1], -1)


def _within(blocks: Array) -> Array:
    """The places of all members of blocks, in order."""
    return (blocks[:, :, None] * BLOCK + lift(jnp.arange(BLOCK), 3)).reshape(len(blocks), -1)


def _by_tiles(score: Callable[[Any, int], Array], q: Array, count: int, k: int, size: int) -> tuple[Array, Array]:
    """The best so far, and those of the next tile: its scores are there until its best blocks are taken."""

    def step(best: tuple[Array, Array], start: Any, size: int) -> tuple[Array, Array]:
        scores = jnp.pad(score(start, size), ((0, 0), (0, -size % BLOCK)), constant_values=-jnp.inf)
        scores = scores.reshape(len(q), -1, BLOCK)
        blocks = _picked(scores.max(-1), k)
        values = jnp.take_along_axis(scores, blocks[:, :, None], 1).reshape(len(q), -1)
        places = (start + blocks[:, :, None] * BLOCK + lift(jnp.arange(BLOCK), 3)).reshape(len(q), -1)
        return _best(jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], places], 1), k)

    # A zero made of what is given: under shard_map a loop wants to start from what varies as its results do.
    zero = 0 * jnp.isnan(score(0, 1)).astype(int)
    best = jnp.full((len(q), k), -jnp.inf, q.dtype) + zero.astype(q.dtype), jnp.full((len(q), k), -1) + zero
    whole, rest = count // size, count % size
    if whole:
        best = lax.fori_loop(0, whole, lambda i, best: step(best, i * size, size), best)
    return step(best, whole * size, rest) if rest else best


def _best(scores: Array, indices: Array, k: int) -> tuple[Array, Array]:
    """The best ``k`` of columns of which the first of equals wins."""
    scores, order = lax.top_k(scores, min(k, scores.shape[1]))
    indices = jnp.where(scores == -jnp.inf, -1, jnp.take_along_axis(indices, order, 1))
    missing = ((0, 0), (0, k - scores.shape[1]))
    return jnp.pad(scores, missing, constant_values=-jnp.inf), jnp.pad(indices, missing, constant_values=-1)


def _in_parts(function: Callable[[Any], tuple[Array, Array]], arrays: tuple[Array, ...], together: int) -> Any:
    """``function`` of so many queries at a time, evened out."""
    count = len(arrays[0])
    parts = -(-count // together)
    if parts == 1:
        return function(arrays)
    size = -(-count // parts)
    padded = [jnp.pad(x, ((0, parts * size - count), *((0, 0),) * (x.ndim - 1))) for x in arrays]
    found = lax.map(function, tuple(x.reshape(parts, size, *x.shape[1:]) for x in padded))
    return tuple(field.reshape(-1, field.shape[-1])[:count] for field in found)


@partial(jax.jit, static_argnames=("dim", "metric"))
def _prefix(rows: Array, *, dim: int, metric: str) -> Array:
    if metric != "cosine":
        return jnp.copy(rows[:, :dim])
    return truncate(rows[:, :dim].astype(wide_dtype(rows)), dim, normalize=True)


@partial(jax.jit, static_argnames="dim")
def _squares(rows: Array, *, dim: int) -> Array:
    return jnp.square(rows[:, :dim].astype(wide_dtype(rows))).sum(-1)
