"""What a loss compares logits with: a factor of every row, and a share of every class."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from .across import size_of, summed
from .arrays import in_xla, moderate, nan_where


class Rows(NamedTuple):
    """Of every example: whether it takes part, its label or class probabilities, and the factor of its losses."""

    used: tf.Tensor
    labels: tf.Tensor  # int64 and in range, or (..., C) floating
    factors: tf.Tensor
    class_weight: tf.Tensor | None  # where the factors do not hold it


def row_factors(
    z: tf.Tensor,
    labels: Any,
    classes: int,
    label_smoothing: float,
    ignore_index: int | None,
    sample_weight: Any,
    class_weight: Any,
    reduction: str,
    wide: tf.DType,
    across: Any = None,
) -> Rows:
    mean, size = reduction == "mean", 1 if across is None or reduction == "none" else size_of(across)
    labels, sample_weight, lost = fitting(z, labels, sample_weight, classes)
    soft, weighted = labels.dtype.is_floating, sample_weight is not None
    if soft:
        used = tf.ones_like(labels[..., 0], tf.bool)
    else:
        used, labels, outside = hard_labels(labels, classes, ignore_index)
        lost = outside if lost is None else outside | lost
    factors = tf.cast(used, wide)
    # The mean does not change with the size of the weights: what would overflow in their sum is taken down before.
    # Replicas would have to agree on how far.
    moderated = mean and across is None
    if weighted:
        factors = tf.where(used, no_less_than_zero(sample_weight, wide), factors)
        factors = moderate(factors) if moderated else factors
    counted = factors
    if class_weight is not None:
        class_weight = no_less_than_zero(class_weight, wide)
        if not soft:
            class_weight = moderate(class_weight) if moderated else class_weight
            counted, weighted = factors * tf.gather(class_weight, labels), True
            if not label_smoothing:
                factors, class_weight = counted, None
    if mean:
        count = tf.reduce_sum(counted) if weighted else tf.cast(tf.math.count_nonzero(used), wide)
        count = count if size == 1 else summed(count, across) / size
        factors = tf.math.divide_no_nan(factors, count)  # of no weight nothing, though smoothing may leave a row a loss
    elif size > 1:  # the mean over the replicas of what they have is what is asked for
        factors *= size
    if lost is not None:
        # A label out of range that nobody could see makes its loss and its gradient NaN, never a wrong number.
        factors += nan_where(lost, wide)
    return Rows(used, labels, factors, class_weight)


def hard_labels(labels: tf.Tensor, classes: int, ignore_index: int | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Which rows take part, labels in range, and which rows' were not."""
    used = tf.ones_like(labels, tf.bool)
    if ignore_index is not None:
        used = tf.not_equal(labels, tf.constant(ignore_index, labels.dtype))
    labels = tf.cast(labels, tf.int64)
    outside = used & ((labels < 0) | (labels >= classes))
    return used, tf.where(used & ~outside, labels, tf.zeros_like(labels)), outside


def no_less_than_zero(weights: Any, wide: tf.DType) -> tf.Tensor:
    """NaN where one is negative that nobody could see."""
    weights = tf.cast(tf.stop_gradient(weights), wide)
    return weights + nan_where(weights < 0, wide)


def fitting(
    z: tf.Tensor, labels: Any, sample_weight: Any, classes: int
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Labels and weights, after a look at shapes that were not known while this was traced.

    If they do not fit there is an error; in XLA, which has none, the last of the three is true.
    """
    labels, sample_weight = (None if x is None else tf.stop_gradient(x) for x in (labels, sample_weight))
    shapes = [z.shape[:-1], *(x.shape for x in (labels, sample_weight) if x is not None)]
    if all(shape.is_fully_defined() for shape in shapes):
        return labels, sample_weight, None
    lead = tf.shape(z)[:-1]
    what, expected = "class index", lead
    if labels.dtype.is_floating:
        what, expected = "row of class probabilities", tf.concat([lead, [classes]], 0)
    same, checks = tf.constant(True), []
    for name, of_what, array, shape in (
        ("labels", what, labels, expected),
        ("sample_weight", "weight", sample_weight, lead),
    ):
        if array is not None:
            fits = tf.reduce_all(tf.equal(shape, tf.shape(array)))
            told = f"{name}: expected the leading shape of z; give one {of_what} per example", shape, tf.shape(array)
            checks += [] if in_xla() else [tf.debugging.Assert(fits, told)]
            same &= fits
    with tf.control_dependencies(checks):  # before shapes that do not fit meet each other
        labels, sample_weight = (None if x is None else tf.identity(x) for x in (labels, sample_weight))
        return labels, sample_weight, ~same


def dense_targets(
    labels: tf.Tensor, classes: int, label_smoothing: float, class_weight: tf.Tensor | None, wide: tf.DType
) -> tf.Tensor:
    """The target of every class, ``(..., C)``."""
    if labels.dtype.is_floating:
        targets = tf.cast(labels, wide)
        targets = (1 - label_smoothing) * targets + label_smoothing / classes if label_smoothing else targets
    else:
        off = label_smoothing / classes
        targets = tf.one_hot(labels, classes, 1 - label_smoothing + off, off, dtype=wide)
    return targets if class_weight is None else tf.math.multiply_no_nan(class_weight, targets)


def weighted_sum(levels: list[tf.Tensor], scales: list[Any]) -> tf.Tensor:
    return tf.add_n([times(level, scale) for level, scale in zip(levels, scales, strict=True)])


def times(x: tf.Tensor, scale: Any) -> tf.Tensor:
    """A number is a level's weight, and never zero; by a tensor of zero, whatever ``x`` holds becomes zero."""
    return tf.math.multiply_no_nan(x, scale) if tf.is_tensor(scale) else scale * x
