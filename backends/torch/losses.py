"""Prefixes, logits and the nested cross-entropy, composed of differentiable operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrl.heads import Head, NestedLoss, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, product, widen
from .fused import fused_cross_entropy


def truncate(z: Tensor, dim: int, *, normalize: bool) -> Tensor:
    x = z[..., :dim]
    if not normalize:
        return x
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # Dividing by the largest entry first keeps the sum of squares in range; the quotient does not depend on it.
    scale = x.detach().abs().amax(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    x = x / scale
    squares = x.square().sum(-1, keepdim=True)
    tiny = scale * squares.sqrt().detach() <= 1e-12
    norm = torch.where(tiny, 1.0, squares).sqrt()
    return torch.where(tiny, 0.0, x / norm).to(z.dtype)


def nested_logits(z: Tensor, head: Head, nesting: Nesting) -> Tensor:
    z, head = widen(z, head)
    x = z.reshape(-1, z.shape[-1])
    levels: list[Tensor] = []
    if isinstance(head, TiedHead):
        for start, stop in nesting.blocks:
            block = product(x[:, start:stop], head.weight[:, start:stop].mT)
            if levels:
                block = levels[-1] + block
            elif head.bias is not None:
                block = block + head.bias
            levels.append(block)
    else:
        for m, weight, bias in zip(nesting.dims, head.weights, head.biases or (None,) * len(nesting), strict=True):
            level = product(x[:, :m], weight.mT)
            levels.append(level if bias is None else level + bias)
    return torch.stack(levels).reshape(len(nesting), *z.shape[:-1], levels[0].shape[-1])


def nested_cross_entropy(
    z: Tensor,
    head: Head,
    labels: Tensor,
    nesting: Nesting,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
) -> NestedLoss:
    classes = head_classes(head)
    labels = labels.long()
    used = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    outside = used & ((labels < 0) | (labels >= classes))
    if ignore_index is not None:
        # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
        z = torch.where(used.unsqueeze(-1), z, 0.0)
    labels = torch.where(used & ~outside, labels, 0)
    # A label out of range that nobody could see makes its loss and its gradient NaN, never a wrong number.
    rows = torch.where(outside, math.nan, used.to(accumulation_dtype(z, head)))
    if reduction == "mean":
        rows = rows / used.sum().clamp(min=1)
    if fused:
        total, per_level = fused_cross_entropy(
            z, head, labels, rows, nesting, label_smoothing, reduction != "none", chunk_rows
        )
    else:
        losses = _cross_entropies(nested_logits(z, head, nesting), labels, label_smoothing)
        losses = torch.where(rows == 0, 0.0, losses * rows)  # infinite, if the class 0 that stands in is excluded
        per_level = losses if reduction == "none" else losses.reshape(len(nesting), -1).sum(1)
        total = sum(weight * level for weight, level in zip(nesting.weights, per_level.unbind(), strict=True))
    return NestedLoss(total, per_level.detach())


def _cross_entropies(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    log_p = logits.log_softmax(-1)
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    losses = -(1 - label_smoothing) * log_p.gather(-1, index).squeeze(-1)
    if label_smoothing:
        losses = losses - label_smoothing * log_p.mean(-1)
    return losses
