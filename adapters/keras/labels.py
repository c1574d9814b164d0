"""Labels as Keras hands them over, brought to class indices: float32, with an axis too many, never through halves."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

HALVES = ("float16", "bfloat16")
NO_CLASS = -(2**31)
"""In the place of labels that are no integers: in no range."""


def wide(dtype: Any) -> Any:
    """The dtype of a loss or a metric, through which labels and sums go: float32 where Keras would choose a half."""
    policy = keras.dtype_policies.get(dtype or keras.config.floatx())
    return "float32" if policy.compute_dtype in HALVES else policy


def class_indices(y_true: Any, rank: int) -> Any:
    """``(...)`` int32 labels of that ``rank``, of integers or floats, with or without a last axis of one.

    Raises:
        TypeError: labels in half precision, in which 257 is 256.
        ValueError: more than one label for an example.
    """
    labels = ops.convert_to_tensor(y_true)
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if dtype in HALVES:
        raise TypeError(
            f"y_true: expected integers or float32, got {dtype}, which does not hold every class; keep labels away "
            "from the policy of the layers"
        )
    if len(labels.shape) == rank + 1 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, -1)
    if len(labels.shape) != rank:
        raise ValueError(
            f"y_true: expected one class index per example, got shape {tuple(labels.shape)} for {rank} leading axes; "
            "give shape (batch, ...) or (batch, ..., 1), and batches whose shapes differ in their first axis alone"
        )
    indices = ops.cast(labels, "int32")
    if dtype in ("bool", "int8", "uint8", "int16", "uint16", "int32"):
        return indices
    return ops.where(ops.equal(ops.cast(indices, dtype), labels), indices, NO_CLASS)


def labels_of(y_true: Any, rank: int, classes: int) -> Any:
    """:func:`class_indices`, of one-hot labels the largest."""
    if are_probabilities(y_true, rank, classes):
        return ops.cast(ops.argmax(y_true, axis=-1), "int32")
    return class_indices(y_true, rank)


def hits_of(logits: Any, labels: Any) -> Any:
    """``(...)`` booleans: whether the largest of ``(..., C)`` logits is the label's, of equal ones the lowest class.

    Beside a NaN none is. Compared with the label's own logit: a search for the largest takes longer.
    """
    own = ops.take_along_axis(logits, ops.clip(labels, 0, logits.shape[-1] - 1)[..., None], axis=-1)
    # A NaN is neither below nor equal.
    places = ops.arange(logits.shape[-1], dtype="int32") >= labels[..., None]
    behind = ops.logical_or(logits < own, ops.logical_and(places, ops.equal(logits, own)))
    known = ops.logical_and(labels >= 0, labels < logits.shape[-1])
    return ops.logical_and(ops.all(behind, axis=-1), known)


def are_probabilities(y_true: Any, rank: int, classes: int) -> bool:
    """Whether labels have a number for each of several classes, as one-hot ones do."""
    return len(y_true.shape) == rank + 1 and y_true.shape[-1] == classes and classes > 1
