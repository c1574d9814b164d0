"""mrl on ToyArray: the least that a backend provides, level by level."""

from __future__ import annotations

from typing import Any

import numpy as np
import toyarrays

from mrl import NestedHead, NestedLoss, TiedHead


def truncate(z, dim, *, normalize):
    x = z.values[..., :dim]
    if normalize:
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        norm = np.linalg.norm(wide.astype(np.float64), axis=-1, keepdims=True)
        x = np.where(norm <= 1e-12, 0, wide / np.where(norm <= 1e-12, 1, norm)).astype(x.dtype)
    return toyarrays.ToyArray(x)


def nested_logits(z, head, nesting):
    return toyarrays.ToyArray(np.stack(_levels(z, head, nesting)))


def nested_cross_entropy(
    z, head, labels, nesting, *, label_smoothing, ignore_index, reduction, fused, chunk_rows,
    sample_weight=None, class_weight=None, level_weights=None,
) -> NestedLoss:  # fmt: skip
    y, wide = labels.values, np.promote_types(z.dtype, np.float32)
    soft, used = np.issubdtype(y.dtype, np.floating), np.ones(z.shape[:-1], bool)
    used = used if ignore_index is None else y != ignore_index
    rows = used.astype(wide) if sample_weight is None else np.where(used, sample_weight.values, 0).astype(wide)
    levels = _levels(toyarrays.ToyArray(np.where(used[..., None], z.values, np.zeros((), z.dtype))), head, nesting)
    hard = None if soft else np.where(used, y, 0).astype(np.int64)
    target = y.astype(wide) if soft else hard[..., None] == np.arange(levels[0].shape[-1])
    target = (1 - label_smoothing) * target + label_smoothing / levels[0].shape[-1]
    counted = rows
    if class_weight is not None:
        target = target * class_weight.values
        counted = rows if soft else rows * class_weight.values[hard]
    per_level, total = [], np.zeros((), wide)
    scales = np.ones(len(nesting)) if level_weights is None else level_weights.values.astype(wide)
    for w, scale, logits in zip(nesting.weights, scales, levels, strict=True):
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        losses = np.where(rows == 0, 0, -rows * np.sum(np.where(target == 0, 0, target * log_p), -1)).astype(wide)
        if reduction != "none":
            divisor = counted.sum() if reduction == "mean" else 1
            losses = np.asarray(losses.sum() / divisor if divisor else 0, wide)
        if w:
            total = total + w * scale * losses
        per_level.append(losses if w else np.full_like(losses, np.nan))
    return NestedLoss(toyarrays.ToyArray(np.asarray(total, wide)), toyarrays.ToyArray(np.stack(per_level)))


def from_numpy(array: Any, *, dtype: str | None, device: Any) -> toyarrays.ToyArray:
    return toyarrays.ToyArray(np.asarray(array, dtype))


def to_numpy(array: toyarrays.ToyArray, *, blocking: bool) -> np.ndarray:
    return array.values


def _levels(z, head, nesting):
    wide = np.promote_types(z.dtype, np.float32)
    levels = []
    for g, m in enumerate(nesting.dims):
        if isinstance(head, TiedHead):
            weight, bias = head.weight.values[:, :m], head.bias
        else:
            assert isinstance(head, NestedHead)
            weight, bias = head.weights[g].values, None if head.biases is None else head.biases[g]
        level = z.values[..., :m].astype(wide) @ weight.astype(wide).T
        levels.append(level if bias is None else level + bias.values.astype(wide))
    return levels
