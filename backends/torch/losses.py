"""Prefixes, logits, the nested cross-entropy and accuracies, composed of differentiable operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.heads import Head, NestedHead, NestedLoss, TiedHead, head_classes, head_leaves
from mrl.nesting import Nesting

from .across import size_of
from .arrays import accumulation_dtype, as_factors
from .fused import fused_cross_entropy
from .products import products
from .sharded import sharded_cross_entropy
from .targets import dense_targets, no_less_than_zero, row_factors

RANGE = {torch.float32: (2.0**40, 2.0**80), torch.float64: (2.0**500, 2.0**700)}
"""Entries past the first number, or below its reciprocal, are scaled by the second before they are squared."""


def truncate(z: Tensor, dim: int, *, normalize: bool) -> Tensor:
    x = z[..., :dim]
    if not normalize:
        return x.clone()
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # A power of two keeps the sum of squares in range and is exact; the quotient does not depend on it.
    (limit, power), largest = RANGE[x.dtype], x.detach().abs().amax(-1, keepdim=True)
    scale = torch.ones_like(largest).masked_fill(largest > limit, 1 / power).masked_fill(largest < 1 / limit, power)
    x = x * scale
    squares = x.square().sum(-1, keepdim=True)
    tiny = squares.detach().sqrt() / scale <= 1e-12
    norm = torch.where(tiny, 1.0, squares).sqrt()
    return torch.where(tiny, 0.0, x / norm).to(z.dtype)


def nested_logits(z: Tensor, head: Head, nesting: Nesting) -> Tensor:
    z, head = as_factors(z, head)
    x = z.reshape(-1, z.shape[-1])
    levels: list[Tensor] = []
    if isinstance(head, TiedHead):
        for start, stop in nesting.blocks:
            (block,) = products(x[:, start:stop], [head.weight[:, start:stop]])
            if levels:
                block = levels[-1] + block
            elif head.bias is not None:
                block = block + head.bias
            levels.append(block)
    else:
        biases = head.biases or (None,) * len(nesting)
        for level, bias in zip(products(x, head.weights), biases, strict=True):
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
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    level_weights: Tensor | None,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any = None,
    classes_across: Any = None,
) -> NestedLoss:
    wide, classes = accumulation_dtype(z, head), head_classes(head)
    if classes_across is not None:
        classes *= size_of(classes_across)
    labels, rows, used = row_factors(
        labels, classes, ignore_index, sample_weight, class_weight, reduction, wide, across
    )
    if used is not None:
        # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
        z = torch.where(used.unsqueeze(-1), z, 0.0)
    if class_weight is not None:
        class_weight = no_less_than_zero(class_weight, wide)
        if not label_smoothing and not labels.is_floating_point():  # a class's weight is that of the rows it labels
            rows, class_weight = torch.where(rows == 0, 0.0, rows * class_weight[labels]), None
    if level_weights is not None:
        level_weights = no_less_than_zero(level_weights, wide)
    whole, count = head, len(nesting)
    kept = nesting.levels_in_use
    if len(kept) < count:
        head, nesting, level_weights = _levels(kept, head, nesting, level_weights)
    if classes_across is not None:
        total, per_level = sharded_cross_entropy(
            z,
            head,
            labels,
            rows,
            level_weights,
            nesting,
            label_smoothing,
            reduction != "none",
            chunk_rows,
            classes_across,
        )
    elif fused:
        total, per_level = fused_cross_entropy(
            z,
            head,
            labels,
            rows,
            class_weight,
            level_weights,
            nesting,
            label_smoothing,
            reduction != "none",
            chunk_rows,
        )
    else:
        logits = nested_logits(z, head, nesting).to(wide)
        losses = _cross_entropies(logits, labels, class_weight, label_smoothing)
        losses = torch.where(rows == 0, 0.0, losses * rows)  # infinite, if the class 0 that stands in is excluded
        per_level = losses if reduction == "none" else losses.reshape(len(nesting), -1).sum(1)
        total = weighted_sum(per_level, nesting, level_weights)
    if len(kept) < count:
        # An empty part of what is left out: its gradient is zero, and not missing.
        absent = [x for x in head_leaves(whole) if not any(x is y for y in head_leaves(head))]
        total = total + sum(x.reshape(-1)[:0].sum() for x in absent)
        nothing, found = torch.full_like(per_level[0], math.nan), dict(zip(kept, per_level.unbind(), strict=True))
        per_level = torch.stack([found.get(g, nothing) for g in range(count)])
    return NestedLoss(total, per_level.detach())


def weighted_sum(per_level: Tensor, nesting: Nesting, level_weights: Tensor | None) -> Tensor:
    levels = zip(nesting.weights, per_level.unbind(), strict=True)
    if level_weights is None:
        return sum(weight * level for weight, level in levels)
    return sum(
        torch.where(factor == 0, 0.0, weight * factor * level)
        for (weight, level), factor in zip(levels, level_weights.unbind(), strict=True)
    )


def nested_accuracy(logits: Tensor, labels: Tensor, *, topk: Sequence[int], ignore_index: int | None) -> Tensor:
    logits, labels = logits.detach(), labels.long()
    wide, classes = torch.promote_types(logits.dtype, torch.float32), logits.shape[-1]
    labels, rows, used = row_factors(labels, classes, ignore_index, None, None, "sum", wide)
    index = labels.unsqueeze(-1)
    own = logits.gather(-1, index.expand(*logits.shape[:-1], 1))
    before = torch.arange(classes, device=labels.device) < index
    rank = ((logits > own) | ((logits == own) & before)).sum(-1)
    rank = torch.where(logits.isnan().any(-1), classes, rank)
    whole = labels.numel() if used is None else used.sum()
    whole = max(1, whole) if isinstance(whole, int) else whole.clamp(min=1)
    hits = [torch.where(rank < min(k, classes), rows, 0.0 * rows) for k in topk]
    return torch.stack([hit.reshape(len(logits), -1).sum(-1) / whole for hit in hits], -1)


def _levels(
    kept: tuple[int, ...], head: Head, nesting: Nesting, level_weights: Tensor | None
) -> tuple[Head, Nesting, Tensor | None]:
    """Those of the levels that are ``kept``: of a tied head their blocks become one with the next in use."""
    if not isinstance(head, TiedHead):
        biases = None if head.biases is None else tuple(head.biases[g] for g in kept)
        head = NestedHead(tuple(head.weights[g] for g in kept), biases)
    if level_weights is not None:
        level_weights = torch.stack([level_weights[g] for g in kept])
    return head, Nesting([nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept]), level_weights


def _cross_entropies(logits: Tensor, labels: Tensor, class_weight: Tensor | None, label_smoothing: float) -> Tensor:
    log_p = logits.log_softmax(-1)
    if labels.is_floating_point() or class_weight is not None:
        u = dense_targets(labels, class_weight, label_smoothing, logits.shape[-1], logits.dtype)
        return -torch.where(u == 0, 0.0, u * log_p).sum(-1)
    if label_smoothing == 1:  # a share of nothing is left out: it would make NaN of a label that is excluded
        return -log_p.mean(-1)
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    losses = -(1 - label_smoothing) * log_p.gather(-1, index).squeeze(-1)
    if label_smoothing:
        losses = losses - label_smoothing * log_p.mean(-1)
    return losses
