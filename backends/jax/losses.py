"""Prefixes, logits and the nested cross-entropy, composed of differentiable operations."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mrl.heads import Head, NestedHead, NestedLoss, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, factor_dtype, lift, product
from .fused import fused_cross_entropy
from .targets import dense_targets, has_dense_targets, no_less_than_zero, row_factors, weighted_sum


def truncate(z: Array, dim: int, *, normalize: bool) -> Array:
    x = z[..., :dim]
    if not normalize:
        return jnp.copy(x)  # JAX hands a whole slice back as the array itself, which may be donated
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    # A factor of a power of two keeps the squares in range, and the quotient does not depend on it. Dividing by the
    # largest entry would not do: XLA multiplies by the reciprocal, and that of 1e38 is flushed to zero.
    edge, power = (2.0**500, 2.0**700) if x.dtype == jnp.float64 else (2.0**40, 2.0**80)
    largest = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    factor = jnp.where(largest > edge, 1 / power, jnp.where(largest < 1 / edge, power, 1.0)).astype(x.dtype)
    x = x * factor
    squares = jnp.square(x).sum(-1, keepdims=True)
    tiny = jnp.sqrt(jax.lax.stop_gradient(squares)) / factor <= 1e-12
    norm = jnp.sqrt(jnp.where(tiny, 1, squares))
    return jnp.where(tiny, 0, x / norm).astype(z.dtype)


def nested_logits(z: Array, head: Head, nesting: Nesting) -> Array:
    # Cut, multiplied and added as the fused loss does it: of a program with both, XLA multiplies once.
    wide = accumulation_dtype(z, head)
    x = z.astype(wide)  # once, and so the gradients of the levels meet in the wide dtype
    levels: list[Array] = []

    def product_of(columns: slice, weight: Array) -> Array:
        return _differentiable_product(x[..., columns], weight.T.astype(wide), factor_dtype(z, weight, wide))

    if not isinstance(head, TiedHead):
        for m, weight, bias in zip(nesting.dims, head.weights, head.biases or (None,) * len(nesting), strict=True):
            level = product_of(slice(m), weight)
            levels.append(level if bias is None else level + lift(bias.astype(wide), level.ndim))
        return jnp.stack(levels)
    before = 0 if head.bias is None else lift(head.bias.astype(wide), z.ndim)
    for start, stop in nesting.blocks:
        levels.append(before + product_of(slice(start, stop), head.weight[:, start:stop]))
        before = levels[-1]
    return jnp.stack(levels)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _differentiable_product(a: Array, b: Array, narrow: np.dtype) -> Array:
    """``product`` whose derivatives, of any order, are products of widened factors: they are rounded nowhere."""
    return product(a.astype(narrow), b.astype(narrow), a.dtype)


@_differentiable_product.defjvp
def _(narrow: np.dtype, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _differentiable_product(a, b, narrow), jnp.matmul(da, b) + jnp.matmul(a, db)


def nested_cross_entropy(
    z: Array,
    head: Head,
    labels: Array,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    sample_weight: Array | None,
    class_weight: Array | None,
    level_weights: Array | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any = None,
    classes_across: Any = None,
) -> NestedLoss:
    kept = nesting.levels_in_use
    if len(kept) < len(nesting):
        loss = nested_cross_entropy(
            z,
            _levels(kept, head),
            labels,
            Nesting([nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept]),
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            sample_weight=sample_weight,
            class_weight=class_weight,
            level_weights=None if level_weights is None else level_weights[np.asarray(kept)],
            reduction=reduction,
            fused=fused,
            chunk_rows=chunk_rows,
        )
        per_level = jnp.full((len(nesting), *loss.per_level.shape[1:]), jnp.nan, loss.per_level.dtype)
        return NestedLoss(loss.total, per_level.at[np.asarray(kept)].set(loss.per_level))
    wide = accumulation_dtype(z, head)
    labels, sample_weight, class_weight, level_weights = (
        x if x is None else jax.lax.stop_gradient(x) for x in (labels, sample_weight, class_weight, level_weights)
    )
    if level_weights is not None:
        level_weights = no_less_than_zero(level_weights.astype(wide)) * jnp.asarray(nesting.weights, wide)
    if class_weight is not None:
        class_weight = class_weight.astype(wide)
        class_weight = jnp.where((class_weight >= 0).all(), class_weight, jnp.nan)
    used = jnp.ones(z.shape[:-1], bool)
    outside, soft = None, jnp.issubdtype(labels.dtype, jnp.floating)
    if not soft:
        if ignore_index is not None:
            used = labels != np.asarray(ignore_index, labels.dtype)
            # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
            z = jnp.where(used[..., None], z, 0)
        if labels.dtype.itemsize < 4:  # the number of classes may be more than the dtype can tell
            labels = labels.astype(jnp.int32)
        outside = used & ((labels < 0) | (labels >= head_classes(head)))
        labels = jnp.where(used & ~outside, labels, 0).astype(jnp.int32)
    rows, class_weight = row_factors(
        used, labels, sample_weight, class_weight, reduction, label_smoothing, wide, across
    )
    if outside is not None:
        # A label out of range that nobody could see makes its loss and its gradient NaN, never a wrong number.
        rows = jnp.where(outside, jnp.nan, rows)
    if fused:
        fixed = (labels, rows, class_weight, level_weights)
        total, per_level = fused_cross_entropy(
            z, head, fixed, nesting, label_smoothing, reduction != "none", chunk_rows
        )
        return NestedLoss(total, jax.lax.stop_gradient(per_level))
    losses = _cross_entropies(nested_logits(z, head, nesting), labels, label_smoothing, class_weight)
    # Infinite, it may be, where the class 0 that stands in for an ignored label is excluded.
    losses = jnp.where(lift(rows == 0, losses.ndim), 0, losses * lift(rows, losses.ndim))
    per_level = losses if reduction == "none" else losses.sum(range(1, losses.ndim))
    total = weighted_sum(per_level, nesting.weights if level_weights is None else level_weights)
    return NestedLoss(total, jax.lax.stop_gradient(per_level))


def nested_accuracy(logits: Array, labels: Array, *, topk: tuple[int, ...], ignore_index: int | None) -> Array:
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    used = jnp.ones(labels.shape, bool) if ignore_index is None else labels != np.asarray(ignore_index, labels.dtype)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    classes = logits.shape[-1]
    outside = used & ((labels < 0) | (labels >= classes))
    labels = lift(jnp.where(used & ~outside, labels, 0).astype(jnp.int32)[..., None], logits.ndim)
    picked = jnp.take_along_axis(logits, jnp.broadcast_to(labels, (*logits.shape[:-1], 1)), -1)
    before = lift(jnp.arange(classes, dtype=jnp.int32), logits.ndim) < labels
    ahead = (logits > picked) | (before & (logits == picked))
    rank = jnp.where(jnp.isnan(logits).any(-1), classes, ahead.sum(-1, dtype=jnp.int32))
    right = jnp.stack([lift(used, rank.ndim) & (rank < min(k, classes)) for k in topk], 1)
    count = jnp.where(outside.any(), jnp.nan, jnp.maximum(used.sum(), 1).astype(dtype))
    return right.sum(range(2, right.ndim)).astype(dtype) / count


def _levels(kept: tuple[int, ...], head: Head) -> Head:
    """Those of the levels that are ``kept``: of a tied head their blocks become one with the next in use."""
    if isinstance(head, TiedHead):
        return head
    biases = None if head.biases is None else tuple(head.biases[g] for g in kept)
    return NestedHead(tuple(head.weights[g] for g in kept), biases)


def _cross_entropies(logits: Array, labels: Array, label_smoothing: float, class_weight: Array | None) -> Array:
    """``sum_c u_c (lse - s_c)`` over the classes with a share ``u_c`` in the target: a share of nothing is left out."""
    log_p = jax.nn.log_softmax(logits)
    if has_dense_targets(labels, label_smoothing, class_weight):
        targets = lift(
            dense_targets(labels, logits.shape[-1], label_smoothing, class_weight, logits.dtype), logits.ndim
        )
        return -jnp.where(targets == 0, 0, targets * log_p).sum(-1)
    losses = 0
    if label_smoothing < 1:
        index = jnp.broadcast_to(labels, logits.shape[:-1])[..., None]
        losses = -(1 - label_smoothing) * jnp.take_along_axis(log_p, index, -1)[..., 0]
    return losses - label_smoothing * log_p.mean(-1) if label_smoothing else losses
