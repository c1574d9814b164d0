"""Prefixes, logits and the nested cross-entropy, composed of differentiable operations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mrl.heads import Head, NestedLoss, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, product, widen
from .fused import fused_cross_entropy


def truncate(z: Array, dim: int, *, normalize: bool) -> Array:
    x = z[..., :dim]
    if not normalize:
        return jnp.copy(x)  # JAX hands a whole slice back as the array itself, which may be donated
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    # A factor of a power of two keeps the squares in range, and the quotient does not depend on it. Dividing by the
    # largest entry would not do: XLA multiplies by the reciprocal, and that of 1e38 is flushed to zero.
    edge, power = (2.0**500, 2.0**700) if x.dtype == jnp.float64 else (2.0**62, 2.0**96)
    largest = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    factor = jnp.where(largest > edge, 1 / power, jnp.where(largest < 1 / edge, power, 1.0)).astype(x.dtype)
    x = x * factor
    squares = jnp.square(x).sum(-1, keepdims=True)
    tiny = jnp.sqrt(jax.lax.stop_gradient(squares)) / factor <= 1e-12
    norm = jnp.sqrt(jnp.where(tiny, 1, squares))
    return jnp.where(tiny, 0, x / norm).astype(z.dtype)


def nested_logits(z: Array, head: Head, nesting: Nesting) -> Array:
    z, head = widen(z, head)
    levels = []
    if not isinstance(head, TiedHead):
        biases = head.biases or (None,) * len(nesting)
        for m, weight, bias in zip(nesting.dims, head.weights, biases, strict=True):
            level = product(z[..., :m], weight.T)
            levels.append(level if bias is None else level + bias)
        return jnp.stack(levels)
    for start, stop in nesting.blocks:
        block = product(z[..., start:stop], head.weight[:, start:stop].T)
        if levels:
            block = levels[-1] + block
        elif head.bias is not None:
            block = block + head.bias
        levels.append(block)
    return jnp.stack(levels)


def nested_cross_entropy(
    z: Array,
    head: Head,
    labels: Array,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
) -> NestedLoss:
    classes = head_classes(head)
    used = jnp.ones(labels.shape, bool) if ignore_index is None else labels != np.asarray(ignore_index, labels.dtype)
    if labels.dtype.itemsize < 4:  # the number of classes may be more than the dtype can tell
        labels = labels.astype(jnp.int32)
    outside = used & ((labels < 0) | (labels >= classes))
    if ignore_index is not None:
        # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
        z = jnp.where(used[..., None], z, 0)
    labels = jnp.where(used & ~outside, labels, 0).astype(jnp.int32)
    # A label out of range that nobody could see makes its loss and its gradient NaN, never a wrong number.
    rows = jnp.where(outside, jnp.nan, used.astype(accumulation_dtype(z, head)))
    if reduction == "mean":
        rows = rows / jnp.maximum(used.sum(), 1).astype(rows.dtype)
    if fused:
        total, per_level = fused_cross_entropy(
            z, head, labels, rows, nesting, label_smoothing, reduction != "none", chunk_rows
        )
    else:
        losses = _cross_entropies(nested_logits(z, head, nesting), labels, label_smoothing)
        losses = jnp.where(rows == 0, 0, losses * rows)  # infinite, if the class 0 that stands in is excluded
        per_level = losses if reduction == "none" else losses.sum(range(1, losses.ndim))
        total = sum(weight * level for weight, level in zip(nesting.weights, per_level, strict=True))
    return NestedLoss(total, jax.lax.stop_gradient(per_level))


def _cross_entropies(logits: Array, labels: Array, label_smoothing: float) -> Array:
    log_p = jax.nn.log_softmax(logits)
    index = jnp.broadcast_to(labels, logits.shape[:-1])[..., None]
    losses = -(1 - label_smoothing) * jnp.take_along_axis(log_p, index, -1)[..., 0]
    if label_smoothing:
        losses = losses - label_smoothing * log_p.mean(-1)
    return losses
