"""Scores of rows for queries, and the norms that they take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arrays import has_memory


def over_norms(scores: Tensor, norms: Tensor) -> None:
    small = norms <= 1e-12
    scores.div_(norms.masked_fill(small, math.inf))  # so that the NaN of a query stays


def row_norms(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or not has_memory(x):  # and no number decides what is done
        return _scaled_norms(x)
    norms, bounds = torch.linalg.vector_norm(x, dim=-1), torch.finfo(x.dtype)
    # Their squares are far from where numbers end; of other rows the scaled ones are.
    usual = (norms > 2**20 * math.sqrt(bounds.tiny)) & (norms < 2**-20 * math.sqrt(bounds.max))
    if not usual.all():
        norms[~usual] = _scaled_norms(x[~usual])
    return norms


def _scaled_norms(x: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), torch.exp2(torch.frexp(largest).exponent.to(x.dtype)), 1)
    return (x / scale).square().sum(-1).sqrt() * scale.squeeze(-1)
