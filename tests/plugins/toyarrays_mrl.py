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
    z, head, labels, nesting, *, label_smoothing, ignore_index, reduction, fused, chunk_rows
) -> NestedLoss:
    y = labels.values.astype(np.int64)
    used = np.ones(y.shape, bool) if ignore_index is None else y != ignore_index
    z = toyarrays.ToyArray(np.where(used[..., None], z.values, np.zeros((), z.dtype)))
    per_level = []
    for logits in _levels(z, head, nesting):
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        picked = np.take_along_axis(log_p, np.where(used, y, 0)[..., None], -1)[..., 0]
        losses = -(1 - label_smoothing) * picked - label_smoothing * log_p.mean(-1)
        losses = np.where(used, losses, 0).astype(logits.dtype)
        if reduction != "none":
            losses = losses.sum() / (max(used.sum(), 1) if reduction == "mean" else 1)
        per_level.append(np.asarray(losses, logits.dtype))
    total = sum(w * level for w, level in zip(nesting.weights, per_level, strict=True))
    return NestedLoss(
        toyarrays.ToyArray(np.asarray(total, per_level[0].dtype)), toyarrays.ToyArray(np.stack(per_level))
    )


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
