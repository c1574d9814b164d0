"""What a loss compares logits with: a factor of every row, and a share of every class."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .across import size_of, summed


def row_factors(
    labels: Tensor,
    classes: int,
    ignore_index: int | None,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    reduction: str,
    wide: torch.dtype,
    across: Any = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Labels that all are classes (or probabilities, as they are), what each row's loss is multiplied by, and which
    rows are in use, where not all are.

    A label out of range, or a weight below zero, that nobody could see makes its loss NaN, never a wrong number.
    """
    factors = None if sample_weight is None else no_less_than_zero(sample_weight, wide)
    if labels.is_floating_point():
        rows = labels.new_ones(labels.shape[:-1], dtype=wide) if factors is None else factors
        return labels.detach(), _reduced(rows, rows, reduction, across), None
    labels = labels.long()
    used = None if ignore_index is None else labels != ignore_index
    outside = (labels < 0) | (labels >= classes)
    outside = outside if used is None else outside & used
    labels = torch.where(outside if used is None else outside | ~used, 0, labels)
    counted = torch.ones_like(labels, dtype=wide) if factors is None else factors
    rows = torch.where(outside, math.nan, counted)
    if class_weight is not None:
        counted = counted * no_less_than_zero(class_weight, wide)[labels]
    if used is not None:
        rows, counted = torch.where(used, rows, 0.0), torch.where(used, counted, 0.0)
    return labels, _reduced(rows, counted, reduction, across), used


def dense_targets(
    labels: Tensor, class_weight: Tensor | None, label_smoothing: float, classes: int, wide: torch.dtype
) -> Tensor:
    """``u_c`` of every row: the one-hot label, or given probabilities, smoothed and weighted."""
    if labels.is_floating_point():
        u = labels.to(wide)
        if label_smoothing:
            u = (1 - label_smoothing) * u + label_smoothing / classes
    else:
        index = labels.unsqueeze(-1)
        u = torch.full((*labels.shape, classes), label_smoothing / classes, dtype=wide, device=index.device)
        u = u.scatter(-1, index, 1 - label_smoothing + label_smoothing / classes)
    # A share of nothing stays nothing, whatever the weight of its class.
    return u if class_weight is None else torch.where(u == 0, 0.0, u * class_weight)


def no_less_than_zero(weights: Tensor, wide: torch.dtype) -> Tensor:
    weights = weights.detach().to(wide)
    return torch.where(weights >= 0, weights, math.nan)


def _reduced(rows: Tensor, counted: Tensor, reduction: str, across: Any) -> Tensor:
    """Rows of whose losses the sum is what is asked for; of many devices, the mean over these of the sums."""
    size = 1 if across is None or reduction == "none" else size_of(across)
    if reduction != "mean":
        return size * rows if size > 1 else rows
    whole = counted.sum()
    if size > 1:
        whole = summed(whole, across) / size
    return torch.where(whole == 0, 0.0 * rows, rows / torch.where(whole == 0, 1.0, whole))


class Targets(NamedTuple):
    """Of the rows of a chunk: their labels, or ``u`` with the sum of each row."""

    labels: Tensor | None
    dense: Tensor | None = None
    mass: Tensor | None = None

    def part(self, rows: slice) -> Targets:
        return Targets(*(None if x is None else x[rows] for x in self))
