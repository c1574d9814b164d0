"""The nested contrastive loss whose gradient is computed along with it, a chunk of anchors at a time.

Computes what ``contrastive.nested_contrastive(fused=False)`` and its backward pass compute, without allocating
``(G, rows, M)`` for more anchors than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``n`` the norms of prefixes,
``ds_g`` the gradient of the similarities of level g, and ``dK_g = ds_g / (n_a n_c temperature)`` that of its raw
products, all levels need one full-width product forward and two backward::

    K_g = K_{g-1} + A_g C_g^T        S_g = sum_{h >= g} dK_h        dA_g = S_g C_g        dC_g = S_g^T A_g

The gradient through a norm is a correction of rows: ``dA_g -= A_g sum_{h >= g} q_h / n_h^2`` with ``q_h`` the row sums
of ``ds_h * s_h``, which added up are ``-temperature`` times the gradient of the temperature too.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

from .arrays import on_host
from .contrastive_sweep import Fixed, Plan, sweep
from .once import differentiable_once, is_watched
from .targets import weighted_sum

NAME = "nested_contrastive"

MANY = 2048
"""Candidates, where their number is not known yet."""


def fused_contrastive(
    a: tf.Tensor,
    c: tf.Tensor,
    temperatures: tf.Tensor,
    exclude: Any,
    own: tf.Tensor,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """``(total, per_level)`` of the losses of the anchors ``a`` among the candidates ``c``, ``own`` those of each."""
    chunk = plan_chunk_rows(
        2 * len(nesting),  # products and gradients
        a.shape[0],
        max(1, c.shape[0] if c.shape[0] is not None else MANY),
        a.dtype.size,
        on_host=on_host(a),
        chunk_rows=chunk_rows,
    )
    plan, summed = Plan(nesting, cosine, symmetric, chunk), reduction != "none"
    factors = tf.ones(tf.shape(own), a.dtype)
    if reduction == "mean":
        factors /= tf.cast(tf.maximum(tf.shape(own)[0], 1), a.dtype)
    arrays = [tf.identity(x) for x in (a, c, temperatures)]  # tf.cond finds no gradient for one from outside of it
    watched = tuple(map(is_watched, arrays))  # what a tape watches now needs a gradient
    needs, eager, weights = tuple(summed and x for x in watched), tf.executing_eagerly(), list(nesting.weights)

    @tf.custom_gradient
    def call(*arrays: tf.Tensor) -> Any:
        losses, gradients = sweep(arrays, Fixed(exclude, own, factors), plan, needs)
        per_level = tf.reduce_sum(losses, 1) if summed else losses
        total = weighted_sum(tf.unstack(per_level, len(nesting)), weights)

        def backward(upstream: tf.Tensor, _: tf.Tensor) -> Any:
            found = [None if g is None else g * upstream for g in gradients]
            # Eager, what no tape watched is not wanted; of a graph, what is not wanted is never run.
            missing = tuple(not needed and (seen or not eager) for needed, seen in zip(needs, watched, strict=True))
            if any(missing):
                _, rest = sweep(arrays, Fixed(exclude, own, factors * upstream), plan, missing)
                found = [g if needed else x for g, x, needed in zip(found, rest, needs, strict=True)]
            return [None if g is None else differentiable_once(NAME, g, upstream, *arrays) for g in found]

        return (total, per_level), backward

    total, per_level = call(*arrays)
    return total, per_level
