"""Adaptive classification: on given values, and computing only what each row needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mrl.cascade.planning import level_columns, plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, NestedHead, TiedHead

from .arrays import accumulation_dtype


def cascade_exit(probabilities: Tensor, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    values = probabilities.detach()
    values = values if values.dtype == torch.float64 else values.float()
    cuts = policy.cuts64 if values.dtype == torch.float64 else policy.cuts32
    last = len(policy) - 1
    labels, confidence = values[last].argmax(-1), _confidence(values[last], policy, last, logits)
    labels = torch.where(confidence.isnan(), -1, labels)
    level = torch.full_like(labels, last)
    for g in reversed(range(last)):
        found = _confidence(values[g], policy, g, logits)
        exits = found > cuts[g]
        labels = torch.where(exits, values[g].argmax(-1), labels)
        level = torch.where(exits, g, level)
        confidence = torch.where(exits, found, confidence)
    return CascadeResult(labels, level, confidence)


def cascade_predict(z: Tensor, head: Head, policy: CascadePolicy, *, chunk_rows: int | None) -> CascadeResult:
    leaves = [head.weight] if isinstance(head, TiedHead) else list(head.weights)
    biases = [] if isinstance(head, TiedHead) and head.bias is None else [head.bias] if isinstance(head, TiedHead) else list(head.biases or ())
    return CascadeResult(*_run(z, leaves, biases, policy, chunk_rows))


def _walk(z: Tensor, head: Head, policy: CascadePolicy, chunk: int, result: CascadeResult) -> None:
    """All levels for the rows of ``z``; the rows still undecided, and their logits, close up after each."""


def _confidence(values: Tensor, policy: CascadePolicy, g: int, logits: bool) -> Tensor:
    """``spec.confidence`` of level ``g`` in the dtype of ``values``."""
