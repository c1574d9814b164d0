"""Scores of rows for queries, and the norms that they take."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from .arrays import in_xla, moderate
from .losses import truncate


def tile_scores(
    q: tf.Tensor,
    offsets: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    start: Any,
    size: Any,
    *,
    metric: str,
    normalized: bool,
    rows_first: bool = True,
) -> tf.Tensor:
    """``(size, queries)`` scores of rows from ``start``, or the other way round; minus infinity for NaN."""
    dim = q.shape[1]
    x = tf.cast(tf.slice(rows, tf.stack([start, 0]), tf.stack([size, dim])), q.dtype)
    x = tf.ensure_shape(x, [None, dim])
    known = None if lengths is None else tf.cast(tf.slice(lengths, [start], [size]), q.dtype)
    if metric == "cosine" and not normalized and known is None:
        x = unit_rows(x)
    scores = tf.matmul(x, q, transpose_b=True) if rows_first else tf.matmul(q, x, transpose_b=True)
    own, other = (1, 0) if rows_first else (0, 1)
    if metric == "l2":
        squares = row_squares(x) if known is None else known
        scores = tf.minimum(2 * scores - tf.expand_dims(squares, own) - tf.expand_dims(offsets, other), 0)
    elif metric == "cosine" and known is not None and not normalized:
        scores = over_norms(scores, tf.expand_dims(known, own))
    return ordered(scores)


def candidate_scores(
    q: tf.Tensor, rows: tf.Tensor, lengths: Any, places: tf.Tensor, *, metric: str, normalized: bool, expanded: Any
) -> tf.Tensor:
    """``(queries, K)`` scores of rows of each query's own; distances from differences, unless they are ``expanded``."""
    dim = q.shape[1]
    x = tf.gather(rows, places)
    x = tf.cast(x if rows.shape[1] == dim else x[..., :dim], q.dtype)
    known = None if lengths is None else tf.cast(tf.gather(lengths, places), q.dtype)
    if metric == "l2" and expanded is None:
        return ordered(-row_squares(x - q[:, None, :]))
    if metric == "cosine" and not normalized and known is None:
        x = unit_rows(x)
    scores = tf.squeeze(tf.matmul(x, q[:, :, None]), -1)
    if metric == "l2":
        squares = row_squares(x) if known is None else known
        scores = tf.minimum(2 * scores - squares - expanded[:, None], 0)
    elif metric == "cosine" and known is not None and not normalized:
        scores = over_norms(scores, known)
    return ordered(scores)


def over_norms(scores: tf.Tensor, norms: tf.Tensor) -> tf.Tensor:
    norms = tf.cast(tf.where(norms <= 1e-12, -nowhere(norms), norms), tf.float64)
    return tf.cast(tf.cast(scores, tf.float64) / norms, scores.dtype)  # so that the NaN of a query stays


def ordered(scores: tf.Tensor) -> tf.Tensor:
    """One zero, because XLA sorts the negative one below the other; and minus infinity for NaN."""
    if in_xla():
        scores = tf.where(tf.equal(scores, 0), tf.zeros_like(scores), scores)
        return tf.where(tf.math.is_nan(scores), nowhere(scores), scores)
    # One pass that reads is a fraction of two that write; a sum is NaN where an entry is.
    usual = tf.math.is_finite(tf.reduce_sum(scores))
    return tf.cond(usual, lambda: scores, lambda: tf.where(tf.math.is_nan(scores), nowhere(scores), scores))


def nowhere(like: tf.Tensor) -> tf.Tensor:
    return tf.constant(-math.inf, like.dtype)


def row_squares(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(x), -1)


def row_norms(x: tf.Tensor) -> tf.Tensor:
    if x.dtype == tf.float64:
        scaled = moderate(x, -1)
        factor = tf.reduce_max(tf.abs(scaled), -1) / tf.reduce_max(tf.abs(x), -1)
        return tf.sqrt(row_squares(scaled)) / tf.where(factor > 0, factor, tf.ones_like(factor))
    return tf.cast(tf.sqrt(row_squares(tf.cast(x, tf.float64))), x.dtype)


def unit_rows(x: tf.Tensor) -> tf.Tensor:
    """Rows over their norms, by float64: TensorFlow's float32 roots and quotients differ from place to place in a
    vector, and equal rows would not have equal scores."""
    if x.dtype == tf.float64:
        return truncate(x, x.shape[-1], normalize=True)
    y = tf.cast(x, tf.float64)
    norm = tf.sqrt(tf.reduce_sum(tf.square(y), -1, keepdims=True))
    small = norm <= 1e-12
    return tf.cast(tf.where(small, tf.zeros_like(y), y / tf.where(small, tf.ones_like(norm), norm)), x.dtype)
