"""What a loss compares logits with: a factor of every row, and a share of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .across import size_of, summed
from .arrays import lift, power_of_two


def row_factors(
    used: Array,
    labels: Array,
    sample_weight: Array | None,
    class_weight: Array | None,
    reduction: str,
    label_smoothing: float,
    wide: np.dtype,
    across: Any = None,
) -> tuple[Array, Array | None]:
    """What the loss of each row counts, and the class weights that are not yet a part of it."""
    rows, mean, soft = used.astype(wide), reduction == "mean", jnp.issubdtype(labels.dtype, jnp.floating)
    # Powers of two leave a mean alone: no sum of weights is too large or too small to be divided by. Devices would have
    # to agree on them.
    scaled = mean and across is None
    if sample_weight is not None:
        rows = jnp.where(used, no_less_than_zero(sample_weight.astype(wide)), 0)
        rows = rows / power_of_two(rows) if scaled else rows
    count = used.sum().astype(wide) if sample_weight is None else rows.sum()
    if class_weight is not None and not soft:
        met = jnp.where(used, class_weight[labels], 0)
        if scaled:
            scale = power_of_two(met)
            met, class_weight = met / scale, class_weight / scale
        count = (rows * met).sum()
        if not has_dense_targets(labels, label_smoothing, class_weight):
            rows, class_weight = rows * met, None
    size = 1 if across is None or reduction == "none" else size_of(across)
    if size != 1:  # the mean over the devices of what they have is what is asked for
        count = summed(count, across) / size
    if reduction == "sum":
        rows = size * rows
    if mean:
        rows = jnp.where(count == 0, 0, rows / jnp.where(count == 0, 1, count))
    return rows, class_weight


def no_less_than_zero(weights: Array) -> Array:
    """Weights, NaN where one is negative that nobody could see."""
    return jnp.where(weights >= 0, weights, jnp.nan)


def weighted_sum(per_level: Array, weights: Sequence[float] | Array) -> Array:
    """The sum of the levels; one of weight zero is left out, though its loss be infinite."""
    return sum(times(level, weight) for level, weight in zip(per_level, weights, strict=True))


def times(x: Array, weight: float | Array) -> Array:
    return weight * x if isinstance(weight, float) else jnp.where(weight == 0, 0, weight * x)


def has_dense_targets(labels: Array, label_smoothing: float, class_weight: Array | None) -> bool:
    """Whether a row's target has a number of its own for every class."""
    return bool(jnp.issubdtype(labels.dtype, jnp.floating) or (label_smoothing and class_weight is not None))


def dense_targets(
    labels: Array, classes: int, label_smoothing: float, class_weight: Array | None, dtype: np.dtype
) -> Array:
    """The share ``u_c`` of every class in the loss of every row, ``(..., C)``."""
    soft = jnp.issubdtype(labels.dtype, jnp.floating)
    targets = labels.astype(dtype) if soft else jax.nn.one_hot(labels, classes, dtype=dtype)
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / classes
    return targets if class_weight is None else targets * lift(class_weight, targets.ndim)
