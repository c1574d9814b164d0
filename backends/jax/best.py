"""The best of tiles of scores, with static shapes: blocks, by their maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from mrl.retrieval.planning import BLOCK, FINE

from .arrays import lift


def picked_places(score: Callable[[Any, int], Array], queries: int, count: int, k: int, size: int) -> Array:
    """The places of all members of the best ``k`` blocks, in order: among them are those of the best ``k`` rows.

    Blocks are ordered by their maximum and then by their place: an element outside of the first ``k`` has as many
    better ones before it. Of many blocks the best lie, in the same way, in the best blocks of blocks.
    """
    whole, rest = count // size, count % size

    def largest(start: Any, size: int) -> Array:
        scores = score(start, size)
        scores = jnp.pad(scores, ((0, -size % BLOCK), (0, 0)), constant_values=-jnp.inf)
        return scores.reshape(-1, BLOCK, queries).max(1)

    parts = []
    if whole:
        parts.append(lax.map(lambda i: largest(i * size, size), jnp.arange(whole)).reshape(-1, queries))
    if rest:
        parts.append(largest(whole * size, rest))
    fine = jnp.concatenate(parts)
    if len(fine) <= FINE * k:
        return _within(_picked(fine.T, k))
    fine = jnp.pad(fine, ((0, -len(fine) % BLOCK), (0, 0)), constant_values=-jnp.inf)
    blocks = _within(_picked(fine.reshape(-1, BLOCK, queries).max(1).T, k))
    return _within(jnp.take_along_axis(blocks, _picked(jnp.take_along_axis(fine.T, blocks, 1), k), 1))


def _picked(values: Array, k: int) -> Array:
    return jnp.sort(lax.top_k(values, min(k, values.shape[1]))[1], -1)


def _within(blocks: Array) -> Array:
    """The places of all members of blocks, in order."""
    return (blocks[:, :, None] * BLOCK + lift(jnp.arange(BLOCK), 3)).reshape(len(blocks), -1)


def by_tiles(score: Callable[[Any, int], Array], q: Array, count: int, k: int, size: int) -> tuple[Array, Array]:
    """The best so far, and those of the next tile: its scores are there until its best blocks are taken."""

    def step(best: tuple[Array, Array], start: Any, size: int) -> tuple[Array, Array]:
        scores = jnp.pad(score(start, size), ((0, 0), (0, -size % BLOCK)), constant_values=-jnp.inf)
        scores = scores.reshape(len(q), -1, BLOCK)
        blocks = _picked(scores.max(-1), k)
        values = jnp.take_along_axis(scores, blocks[:, :, None], 1).reshape(len(q), -1)
        places = (start + blocks[:, :, None] * BLOCK + lift(jnp.arange(BLOCK), 3)).reshape(len(q), -1)
        return top_of(jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], places], 1), k)

    # A zero made of what is given: under shard_map a loop wants to start from what varies as its results do.
    zero = 0 * jnp.isnan(score(0, 1)).astype(int)
    best = jnp.full((len(q), k), -jnp.inf, q.dtype) + zero.astype(q.dtype), jnp.full((len(q), k), -1) + zero
    whole, rest = count // size, count % size
    if whole:
        best = lax.fori_loop(0, whole, lambda i, best: step(best, i * size, size), best)
    return step(best, whole * size, rest) if rest else best


def top_of(scores: Array, indices: Array, k: int) -> tuple[Array, Array]:
    """The best ``k`` of columns of which the first of equals wins."""
    scores, order = lax.top_k(scores, min(k, scores.shape[1]))
    indices = jnp.where(scores == -jnp.inf, -1, jnp.take_along_axis(indices, order, 1))
    missing = ((0, 0), (0, k - scores.shape[1]))
    return jnp.pad(scores, missing, constant_values=-jnp.inf), jnp.pad(indices, missing, constant_values=-1)
