"""The nested cross-entropy whose gradient is computed along with it, a chunk of rows at a time.

Computes what ``losses.nested_cross_entropy(fused=False)`` and its backward pass compute, without allocating
``(G, rows, C)`` for more rows than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``R_g`` the gradient of
``logits_g`` and ``S_g = sum_{h >= g} R_h``, a tied head needs one full-width product forward and two backward::

    logits_g = logits_{g-1} + Z_g W_g^T        dZ_g = S_g W_g        dW_g = S_g^T Z_g        db = sum_rows S_1
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrl.heads import Head, TiedHead, head_leaves
from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

from .arrays import in_xla, nan_where, on_host
from .once import differentiable_once, is_watched
from .sweep import Plan, sweep
from .targets import Rows, weighted_sum

NAME = "nested_cross_entropy"


def fused_cross_entropy(
    z: Any,
    head: Head,
    rows: Rows,
    scales: list[Any],
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """``(total, per_level)`` of ``factors[i] * CE_g[i]``, summed over the examples or not."""
    tied, leaves = isinstance(head, TiedHead), head_leaves(head)
    leaves = tuple(tf.identity(leaf) for leaf in leaves)  # tf.cond finds no gradient for a tensor from outside of it
    z = tf.reshape(z, [-1, z.shape[-1]])
    shape, factors = tf.shape(rows.factors), tf.reshape(rows.factors, [-1])
    labels = tf.reshape(rows.labels, [-1, *([rows.labels.shape[-1]] if rows.labels.dtype.is_floating else [])])
    plan = Plan(
        nesting,
        tied,
        label_smoothing,
        summed,
        plan_chunk_rows(
            3 * len(nesting) // 2 + 1,  # some levels are there twice, as logits and as gradients; and the targets
            rows.factors.shape.num_elements(),
            leaves[0].shape[0],
            factors.dtype.size,
            on_host=on_host(z),
            chunk_rows=chunk_rows,
        ),
    )
    watched = tuple(map(is_watched, (z, *leaves)))  # what a tape watches now needs a gradient
    needs, eager = tuple(summed and x for x in watched), tf.executing_eagerly()

    @tf.custom_gradient
    def call(z: tf.Tensor, *leaves: tf.Tensor) -> Any:
        losses, gradients = sweep(z, leaves, labels, factors, rows.class_weight, scales, plan, needs)
        per_level, total = losses, weighted_sum(tf.unstack(losses, len(nesting)), scales)

        # A CPU's softmax may keep a NaN to itself: what all of a row's gradient has to be is told by its losses. Looked
        # at once, because one more product with all of a gradient would cost a tenth of a step.
        lost = nan_where(tf.math.is_nan(total) & tf.not_equal(factors, 0), factors.dtype)
        if summed:
            per_level, total = tf.reduce_sum(losses, 1), tf.reduce_sum(total)

        def backward(upstream: tf.Tensor, _: tf.Tensor) -> Any:
            found = [None if g is None else g * upstream for g in gradients]
            if on_host(z) and not in_xla():
                found = _with_nan(found, lost)
            # Eager, what no tape watched is not wanted; of a graph, what is not wanted is never run.
            missing = tuple(not needed and (seen or not eager) for needed, seen in zip(needs, watched, strict=True))
            if any(missing):
                again = (factors + lost) * upstream
                _, rest = sweep(z, leaves, labels, again, rows.class_weight, scales, plan, missing)
                found = [g if needed else x for g, x, needed in zip(found, rest, needs, strict=True)]
            found = [None if g is None else tf.cast(g, x.dtype) for g, x in zip(found, (z, *leaves), strict=True)]
            return [None if g is None else differentiable_once(NAME, g, upstream, z, *leaves) for g in found]

        return (total, per_level), backward

    total, per_level = call(z, *leaves)
    if not summed:
        total, per_level = tf.reshape(total, shape), tf.reshape(per_level, tf.concat([[len(nesting)], shape], 0))
    return total, per_level


def _with_nan(gradients: list[tf.Tensor | None], lost: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradients; if rows are ``lost``, with NaN in those of ``z`` and in all of the head's."""
    whole = tf.reduce_sum(lost)
    places = [lost[:, None], *[whole] * (len(gradients) - 1)]
    pairs = [(g, nan) for g, nan in zip(gradients, places, strict=True) if g is not None]
    if not pairs:
        return gradients
    found = iter(
        tf.cond(
            tf.math.is_nan(whole),
            lambda: [g + nan for g, nan in pairs],
            lambda: [tf.identity(g) for g, _ in pairs],
        )
    )
    return [None if g is None else next(found) for g in gradients]
