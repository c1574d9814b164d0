"""Scores of rows for queries, and the norms that they take."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .arrays import wide_dtype
from .losses import truncate


def tile_scores(
    q: Array,
    offsets: Array,
    rows: Array,
    lengths: Array | None,
    start: Any,
    size: int,
    *,
    metric: str,
    normalized: bool,
    rows_first: bool = True,
) -> Array:
    """``(size, queries)`` scores of rows from ``start``, or the other way round; minus infinity for NaN."""
    x = lax.dynamic_slice(rows, (start, 0), (size, q.shape[1])).astype(q.dtype)
    known = None if lengths is None else lax.dynamic_slice_in_dim(lengths, start, size).astype(q.dtype)
    if metric == "cosine" and not normalized and known is None:
        x = truncate(x, x.shape[1], normalize=True)
    scores = jnp.matmul(x, q.T) if rows_first else jnp.matmul(q, x.T)
    own, other = (1, 0) if rows_first else (0, 1)
    if metric == "l2":
        squares = jnp.square(x).sum(-1) if known is None else known
        scores = jnp.minimum(2 * scores - jnp.expand_dims(squares, own) - jnp.expand_dims(offsets, other), 0)
    elif metric == "cosine" and known is not None and not normalized:
        scores = over_norms(scores, jnp.expand_dims(known, own))
    return ordered(scores)


def candidate_scores(
    q: Array,
    rows: Array,
    lengths: Array | None,
    places: Array,
    metric: str,
    normalized: bool,
    *,
    expanded: Array | None = None,
) -> Array:
    """``(queries, K)`` scores of rows of each query's own; distances from differences, unless they are ``expanded``."""
    x = rows.at[places, : q.shape[1]].get(mode="clip").astype(q.dtype)
    known = None if lengths is None else lengths[places].astype(q.dtype)
    if metric == "l2" and expanded is None:
        return ordered(-jnp.square(x - q[:, None, :]).sum(-1))
    if metric == "cosine" and not normalized and known is None:
        x = truncate(x, x.shape[-1], normalize=True)
    scores = jnp.einsum("qnd,qd->qn", x, q)
    if metric == "l2":
        squares = jnp.square(x).sum(-1) if known is None else known
        offsets = jnp.zeros(len(q), q.dtype) if expanded is None else expanded
        scores = jnp.minimum(2 * scores - squares - offsets[:, None], 0)
    elif metric == "cosine" and known is not None and not normalized:
        scores = over_norms(scores, known)
    return ordered(scores)


def over_norms(scores: Array, norms: Array) -> Array:
    return scores / jnp.where(norms <= 1e-12, jnp.inf, norms)  # so that the NaN of a query stays


def ordered(scores: Array) -> Array:
    """One zero, because XLA sorts the negative one below the other; and minus infinity for NaN."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, jnp.where(scores == 0, 0, scores))


@jax.jit
def row_norms(rows: Array) -> Array:
    x = rows.astype(wide_dtype(rows))
    largest = jnp.abs(x).max(-1, initial=0)
    usual = (largest > 0) & (largest < jnp.inf)
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.clip(jnp.where(usual, jnp.frexp(largest)[1], 0), -126, 126))
    return jnp.sqrt(jnp.square(x / scale[:, None]).sum(-1)) * scale
