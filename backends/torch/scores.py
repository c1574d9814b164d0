"""Scores of rows for queries, and the norms that they take."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def over_norms(scores: Tensor, norms: Tensor) -> None:
    small = norms <= 1e-12
    scores.div_(norms.masked_fill(small, math.inf))  # so that the NaN of a query stays


def row_norms(x: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), torch.exp2(torch.frexp(largest).exponent.to(x.dtype)), 1)
    return (x / scale).square().sum(-1).sqrt() * scale.squeeze(-1)
