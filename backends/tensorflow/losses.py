"""Prefixes, logits and the nested cross-entropy, composed of differentiable operations."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mrl.heads import Head, NestedHead, NestedLoss, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, moderate, nan_where, widen
from .fused import fused_cross_entropy
from .targets import Rows, dense_targets, fitting, hard_labels, no_less_than_zero, row_factors, weighted_sum


def truncate(z: Any, dim: int, *, normalize: bool) -> tf.Tensor:
    x = z[..., :dim]
    if not normalize:
        return x
    # Dividing by the largest entry would keep the squares in range too, but for XLA, which multiplies by a reciprocal
    # that vanishes for some. Small squares may vanish: a norm made of such is zero.
    x = moderate(tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32), -1)
    squares = tf.reduce_sum(tf.square(x), -1, keepdims=True)
    tiny = tf.sqrt(tf.stop_gradient(squares)) <= 1e-12
    norm = tf.sqrt(tf.where(tiny, tf.ones_like(squares), squares))
    return tf.cast(tf.where(tiny, tf.zeros_like(x), x / norm), z.dtype)


def nested_logits(z: Any, head: Head, nesting: Nesting) -> tf.Tensor:
    # Cut and multiplied as the fused loss does it: of a graph with both, TensorFlow multiplies once.
    z, head = widen(z, head)
    flat, levels = z.shape.rank == 2, list[tf.Tensor]()
    x = z if flat else tf.reshape(z, [-1, z.shape[-1]])
    if isinstance(head, TiedHead):
        for start, stop in nesting.blocks:
            block = tf.matmul(x[:, start:stop], head.weight[:, start:stop], transpose_b=True)
            before = levels[-1] if levels else head.bias
            levels.append(block if before is None else before + block)
    else:
        biases = head.biases or (None,) * len(nesting)
        for m, weight, bias in zip(nesting.dims, head.weights, biases, strict=True):
            level = tf.matmul(x[:, :m], weight, transpose_b=True)
            levels.append(level if bias is None else level + bias)
    if flat:
        return tf.stack(levels)
    return tf.reshape(tf.stack(levels), tf.concat([[len(nesting)], tf.shape(z)[:-1], [head_classes(head)]], 0))


def nested_cross_entropy(
    z: Any,
    head: Head,
    labels: Any,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    sample_weight: Any,
    class_weight: Any,
    level_weights: Any,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any = None,
    classes_across: Any = None,
) -> NestedLoss:
    classes, wide, summed = head_classes(head), accumulation_dtype(z, head), reduction != "none"
    rows = row_factors(
        z, labels, classes, label_smoothing, ignore_index, sample_weight, class_weight, reduction, wide, across
    )
    if ignore_index is not None:
        # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
        z = tf.where(rows.used[..., None], z, tf.zeros_like(z))
    count, levels = len(nesting), nesting.levels_in_use
    scales: list[Any] = [nesting.weights[g] for g in levels]
    if level_weights is not None:
        given = tf.unstack(no_less_than_zero(level_weights, wide), count)
        scales = [scale * given[g] for scale, g in zip(scales, levels, strict=True)]
    nesting = Nesting([nesting.dims[g] for g in levels], [nesting.weights[g] for g in levels])
    head, left_out = _levels_of(head, levels)
    if fused:
        total, per_level = fused_cross_entropy(z, head, rows, scales, nesting, label_smoothing, summed, chunk_rows)
    else:
        losses = _cross_entropies(nested_logits(z, head, nesting), rows, label_smoothing)
        losses = tf.math.multiply_no_nan(losses, rows.factors)  # infinite, if the class 0 that stands in is excluded
        per_level = tf.reduce_sum(losses, range(1, losses.shape.rank)) if summed else losses
        total = weighted_sum(tf.unstack(per_level, len(levels)), scales)
    for leaf in left_out:  # their gradient is not missing, but zero: that of a sum of nothing
        total += tf.cast(tf.reduce_sum(leaf[:0]), wide)
    if len(levels) < count:
        found = dict(zip(levels, tf.unstack(per_level, len(levels)), strict=True))
        unknown = tf.fill(tf.shape(total), tf.constant(math.nan, wide))
        per_level = tf.stack([found.get(g, unknown) for g in range(count)])
    return NestedLoss(total, tf.stop_gradient(per_level))


def nested_accuracy(logits: Any, labels: Any, *, topk: tuple[int, ...], ignore_index: int | None) -> tf.Tensor:
    logits, classes = tf.stop_gradient(logits), logits.shape[-1]
    labels, _, lost = fitting(logits[0, ..., :0], labels, None, classes)
    used, labels, outside = hard_labels(labels, classes, ignore_index)
    index = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    own = tf.gather(logits, index, batch_dims=index.shape.rank)[..., None]
    ahead = (logits > own) | (tf.equal(logits, own) & (tf.range(classes, dtype=tf.int64) < labels[..., None]))
    rank = tf.math.count_nonzero(ahead, -1)
    known = used & ~tf.reduce_any(tf.math.is_nan(logits), -1)
    right = [tf.math.count_nonzero(known & (rank < k), range(1, rank.shape.rank)) for k in topk]
    # In float64 first: where XLA multiplies by a reciprocal, all of three would not be one in float32.
    total = tf.cast(tf.maximum(tf.math.count_nonzero(used), 1), tf.float64)
    share = tf.cast(
        tf.cast(tf.stack(right, -1), tf.float64) / total, tf.float64 if logits.dtype == tf.float64 else tf.float32
    )
    return share + nan_where(tf.reduce_any(outside if lost is None else outside | lost), share.dtype)


def _levels_of(head: Head, levels: tuple[int, ...]) -> tuple[Head, list[Any]]:
    """The head of these levels, and the arrays of the others; a tied head is all of theirs."""
    if isinstance(head, TiedHead):
        return head, []
    groups = [group for group in (head.weights, head.biases) if group is not None]
    left_out = [x for group in groups for g, x in enumerate(group) if g not in levels]
    kept = [tuple(group[g] for g in levels) for group in groups]
    return NestedHead(*kept), left_out


def _cross_entropies(logits: tf.Tensor, rows: Rows, label_smoothing: float) -> tf.Tensor:
    log_p, labels = tf.nn.log_softmax(logits), rows.labels
    if labels.dtype.is_floating or rows.class_weight is not None:
        targets = dense_targets(labels, logits.shape[-1], label_smoothing, rows.class_weight, logits.dtype)
        return -tf.reduce_sum(tf.math.multiply_no_nan(log_p, targets), -1)
    losses = tf.zeros([], logits.dtype)
    # A share of nothing is left out: of an excluded class it would be NaN.
    if label_smoothing < 1:
        index = tf.broadcast_to(labels, tf.shape(logits)[:-1])
        losses = -(1 - label_smoothing) * tf.gather(log_p, index, batch_dims=index.shape.rank)
    if label_smoothing:
        losses -= label_smoothing * tf.reduce_mean(log_p, -1)
    return losses
