"""Exact search by the maxima of blocks, with static shapes; candidates, scored again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mrl.retrieval.planning import Passes, plan_gather, plan_passes
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import on_host, row_sharding, wide_dtype
from .best import by_tiles, picked_places, top_of
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
    count = math.prod(lead)
    if not count or not len(rows):
        return SearchResult(jnp.full((*lead, k), -jnp.inf, wide), jnp.full((*lead, k), -1))
    queries, rows, lengths = lax.stop_gradient((queries, rows, lengths))
    plan = plan_passes(count, len(rows), dim, k, wide.itemsize, on_host=on_host(queries), tile=tile)

    def work(queries: Array, rows: Array, lengths: Array | None) -> SearchResult:
        q = queries[..., :dim].reshape(count, dim).astype(wide)
        found = _search(q, rows, lengths, k=k, metric=metric, normalized=normalized, plan=plan)
        return SearchResult(*(field.reshape(*lead, k) for field in found))

    return _placed(work, queries, rows, lengths)


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
    wide, lead, width = wide_dtype(queries, rows), queries.shape[:-1], candidates.shape[-1]
    count = math.prod(lead)
    if not count or not len(rows) or not width:
        return SearchResult(jnp.full((*lead, k), -jnp.inf, wide), jnp.full((*lead, k), -1))
    queries, rows, lengths = lax.stop_gradient((queries, rows, lengths))
    together = plan_gather(width, dim, wide.itemsize, on_host=on_host(queries), queries=count)

    def work(queries: Array, rows: Array, lengths: Array | None, candidates: Array) -> SearchResult:
        q, given = queries[..., :dim].reshape(count, dim).astype(wide), candidates.reshape(count, width)
        found = _rerank(q, rows, lengths, given, k=k, metric=metric, normalized=normalized, together=together)
        return SearchResult(*(field.reshape(*lead, k) for field in found))

    return _placed(work, queries, rows, lengths, candidates)


def prepare_database(rows: Array, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    narrow = tuple(m for m in dims if m < rows.shape[1])
    prefixes = tuple(_prefix(rows, dim=m, metric=metric) for m in track([*narrow]))
    if metric == "cosine":
        return Database(rows, prefixes, row_norms(rows))
    squares = tuple(_squares(rows, dim=m) for m in (*narrow, rows.shape[1]))
    return Database(rows, prefixes, None, squares if metric == "l2" else None)


def _placed(work: Callable[..., SearchResult], queries: Array, *others: Any) -> SearchResult:
    per_row = row_sharding(queries, others)
    if per_row is not None:
        work = jax.sharding.auto_axes(work, out_sharding=SearchResult(per_row, per_row))
    return work(queries, *others)


@partial(jax.jit, static_argnames=("k", "metric", "normalized", "plan"))
def _search(
    q: Array,
    rows: Array,
    lengths: Array | None,
    *,
    k: int,
    metric: str,
    normalized: bool,
    plan: Passes,
) -> tuple[Array, Array]:
    offsets = jnp.square(q).sum(-1) if metric == "l2" else jnp.zeros(len(q), q.dtype)
    q = truncate(q, q.shape[1], normalize=True) if metric == "cosine" else q

    def few(part: tuple[Array, Array]) -> tuple[Array, Array]:
        q, offsets = part
        score = partial(tile_scores, q, offsets, rows, lengths, metric=metric, normalized=normalized)
        if plan.again is None:
            return by_tiles(partial(score, rows_first=False), q, len(rows), k, plan.rows)
        places = picked_places(score, len(q), len(rows), k, plan.rows)
        return _in_parts(again, (q, offsets, places), plan.again)

    def again(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, offsets, places = part
        held = jnp.minimum(places, len(rows) - 1)
        scores = candidate_scores(q, rows, lengths, held, metric, normalized, expanded=offsets)
        return top_of(jnp.where(places < len(rows), scores, -jnp.inf), places, k)

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
        return top_of(jnp.where(given < 0, -jnp.inf, scores), given, k)

    return _in_parts(few, (q, given), together)


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
