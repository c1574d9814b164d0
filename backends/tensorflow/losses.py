"""Prefixes, logits and the nested cross-entropy, composed of differentiable operations."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrl.heads import Head, NestedLoss, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, in_xla, nan_where, widen
from .fused import fused_cross_entropy


def truncate(z: Any, dim: int, *, normalize: bool) -> tf.Tensor:
    x = z[..., :dim]
    if not normalize:
        return x
    x = tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
    # A power of two, which rounds nothing, keeps the squares of large entries in range. Dividing by the largest entry
    # would not do: XLA multiplies by the reciprocal, which vanishes for some. Small squares may vanish, because a norm
    # made of such is zero.
    above, factor = (2.0**400, 2.0**-600) if x.dtype == tf.float64 else (2.0**40, 2.0**-80)
    large = tf.reduce_max(tf.abs(x), -1, keepdims=True) > above
    x *= tf.where(large, tf.constant(factor, x.dtype), tf.constant(1, x.dtype))
    squares = tf.reduce_sum(tf.square(x), -1, keepdims=True)
    tiny = tf.sqrt(tf.stop_gradient(squares)) <= 1e-12
    norm = tf.sqrt(tf.where(tiny, tf.ones_like(squares), squares))
    return tf.cast(tf.where(tiny, tf.zeros_like(x), x / norm), z.dtype)


def nested_logits(z: Any, head: Head, nesting: Nesting) -> tf.Tensor:
    z, head = widen(z, head)
    levels = []
    if not isinstance(head, TiedHead):
        biases = head.biases or (None,) * len(nesting)
        for m, weight, bias in zip(nesting.dims, head.weights, biases, strict=True):
            level = tf.tensordot(z[..., :m], weight, [[-1], [1]])
            levels.append(level if bias is None else level + bias)
        return tf.stack(levels)
    for start, stop in nesting.blocks:
        block = tf.tensordot(z[..., start:stop], head.weight[:, start:stop], [[-1], [1]])
        if levels:
            block = levels[-1] + block
        elif head.bias is not None:
            block = block + head.bias
        levels.append(block)
    return tf.stack(levels)


def nested_cross_entropy(
    z: Any,
    head: Head,
    labels: Any,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
) -> NestedLoss:
    classes = head_classes(head)
    used = tf.ones_like(labels, tf.bool)
    if ignore_index is not None:
        used = tf.not_equal(labels, tf.constant(ignore_index, labels.dtype))
    labels = tf.cast(labels, tf.int64)
    outside = used & ((labels < 0) | (labels >= classes))
    if not (z.shape[:-1].is_fully_defined() and labels.shape.is_fully_defined()):
        outside |= ~_same_lead(z, labels)
    if ignore_index is not None:
        # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
        z = tf.where(used[..., None], z, tf.zeros_like(z))
    labels = tf.where(used & ~outside, labels, tf.zeros_like(labels))
    # A label out of range that nobody could see makes its loss and its gradient NaN, never a wrong number.
    rows = tf.cast(used, accumulation_dtype(z, head))
    rows += nan_where(outside, rows.dtype)
    if reduction == "mean":
        rows = rows / tf.cast(tf.maximum(tf.math.count_nonzero(used), 1), rows.dtype)
    if fused:
        total, per_level = fused_cross_entropy(
            z, head, labels, rows, nesting, label_smoothing, reduction != "none", chunk_rows
        )
    else:
        losses = _cross_entropies(nested_logits(z, head, nesting), labels, label_smoothing)
        losses = tf.math.multiply_no_nan(losses, rows)  # infinite, if the class 0 that stands in is excluded
        per_level = losses if reduction == "none" else tf.reduce_sum(losses, range(1, losses.shape.rank))
        total = tf.add_n([weight * level for weight, level in zip(nesting.weights, tf.unstack(per_level), strict=True)])
    return NestedLoss(total, tf.stop_gradient(per_level))


def _same_lead(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Whether shapes that were not known while this was traced fit: else an error, or, in XLA, NaN."""
    same = tf.reduce_all(tf.equal(tf.shape(z)[:-1], tf.shape(labels)))
    told = "labels: expected the leading shape of z; give one class index per example", tf.shape(z), tf.shape(labels)
    with tf.control_dependencies([] if in_xla() else [tf.debugging.Assert(same, told)]):
        return tf.identity(same)


def _cross_entropies(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    log_p = tf.nn.log_softmax(logits)
    index = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    losses = -(1 - label_smoothing) * tf.gather(log_p, index, batch_dims=index.shape.rank)
    if label_smoothing:
        losses = losses - label_smoothing * tf.reduce_mean(log_p, -1)
    return losses
