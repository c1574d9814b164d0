"""Prefixes, logits and the nested cross-entropy, by the specification."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl import spec
from mrl.heads import Head, NestedLoss
from mrl.nesting import Nesting

from .arrays import accumulation_dtype


def truncate(z: np.ndarray, dim: int, *, normalize: bool) -> np.ndarray:
    return spec.truncate(z, dim, normalize=normalize).astype(z.dtype)


def nested_logits(z: np.ndarray, head: Head, nesting: Nesting) -> np.ndarray:
    return spec.nested_logits(z, head, nesting).astype(accumulation_dtype(z, head))


def nested_cross_entropy(
    z: np.ndarray,
    head: Head,
    labels: np.ndarray,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    sample_weight: np.ndarray | None,
    class_weight: np.ndarray | None,
    level_weights: np.ndarray | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any = None,
    classes_across: Any = None,
) -> NestedLoss:
    for name, value in (("across", across), ("classes_across", classes_across)):
        if value is not None:
            raise ValueError(f"{name}: expected None for NumPy, which has one device, got {value!r}; leave it out")
    # There is no graph to keep small here: both forms are the specification, level by level.
    loss = spec.nested_cross_entropy(
        z,
        head,
        labels,
        nesting,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        class_weight=class_weight,
        level_weights=level_weights,
        reduction=reduction,
    )
    dtype = accumulation_dtype(z, head)
    return NestedLoss(np.asarray(loss.total).astype(dtype)[()], loss.per_level.astype(dtype))


def nested_accuracy(
    logits: np.ndarray, labels: np.ndarray, *, topk: tuple[int, ...], ignore_index: int | None
) -> np.ndarray:
    shares = spec.nested_accuracy(logits, labels, topk=topk, ignore_index=ignore_index)
    return shares.astype(np.float64 if logits.dtype == np.float64 else np.float32)
