"""The nested cross-entropy of a head whose classes are shared out over processes.

Of a row's logits each process has those of its own classes. What a softmax needs of the others is little: the largest
logit, then the sum of exponentials and the label's own logit, of every row and level. Gradients of the head stay where
its classes are; that of ``z`` is the sum over processes, taken once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mrl.heads import Head, TiedHead, head_leaves
from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

from .across import check_same_shapes, place_of, reduced, size_of, uncompiled
from .arrays import factor_dtype, multiplies
from .once import DifferentiableOnce, too_much
from .sweep import add_product, put_product

NAME = "nested_cross_entropy"


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    narrow: torch.dtype
    summed: bool
    chunk_rows: int | None
    across: Any
    needs: tuple[bool, ...]


@uncompiled
def sharded_cross_entropy(
    z: Tensor,
    head: Head,
    labels: Tensor,
    rows: Tensor,
    level_weights: Tensor | None,
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
    across: Any,
) -> tuple[Tensor, Tensor]:
    """``(total, per_level)`` of ``rows[i] * CE_g[i]``, summed over the examples or not."""
    leaves = head_leaves(head)
    check_same_shapes((z, *leaves), across, "classes_across")
    needs = tuple(torch.is_grad_enabled() and x.requires_grad for x in (z, *leaves))
    tied, lead = isinstance(head, TiedHead), rows.shape
    plan = Plan(nesting, tied, label_smoothing, factor_dtype(z, head), summed, chunk_rows, across, needs)
    weights = rows.new_tensor(nesting.weights)
    if level_weights is not None:
        weights = weights * level_weights
    flat = z.reshape(-1, z.shape[-1])
    total, per_level = _Sharded.apply(plan, labels.reshape(-1), rows.reshape(-1), weights, flat, *leaves)
    return (total, per_level) if summed else (total.reshape(lead), per_level.reshape(len(nesting), *lead))


class _Sharded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, labels: Tensor, rows: Tensor, weights: Tensor, *arrays: Tensor) -> Any:
        needs = plan.needs if plan.summed else (False,) * len(plan.needs)
        losses, ctx.gradients = _sweep(plan, labels, rows, weights, arrays, needs)
        ctx.plan = plan
        ctx.save_for_backward(labels, rows, weights, *arrays)
        per_level = losses.sum(-1) if plan.summed else losses
        factors = weights.reshape(-1, *(1,) * (per_level.dim() - 1))
        total = torch.where(factors == 0, 0.0, factors * per_level).sum(0)
        ctx.mark_non_differentiable(per_level)
        return total, per_level

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        labels, rows, weights, *arrays = ctx.saved_tensors
        with torch.no_grad():
            if ctx.plan.summed:
                found = [None if g is None else g * upstream for g in ctx.gradients]
            else:
                scaled = torch.where(rows == 0, 0.0, rows * upstream)
                _, found = _sweep(ctx.plan, labels, scaled, weights, arrays, ctx.plan.needs)
            found = [None if g is None else g.to(x.dtype) for g, x in zip(found, arrays, strict=True)]
        if torch.is_grad_enabled():
            found = [None if g is None else DifferentiableOnce.apply(g, NAME, upstream, *arrays) for g in found]
        return None, None, None, None, *found

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise too_much(NAME, "forward-mode differentiation")


def _sweep(
    plan: Plan, labels: Tensor, rows: Tensor, weights: Tensor, arrays: Sequence[Tensor], needs: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    (z, *leaves), wide, levels = arrays, rows.dtype, len(plan.nesting)
    factor = plan.narrow if multiplies(plan.narrow, z.device) else wide
    gradients = [torch.zeros_like(x, dtype=wide) if needed else None for x, needed in zip(arrays, needs, strict=True)]
    matrices = [x.to(plan.narrow).to(factor) for x in leaves[: 1 if plan.tied else levels]]
    biases = [x.to(wide) for x in leaves[len(matrices) :]]
    z, own = z.to(plan.narrow).to(factor), len(matrices[0])
    labels = labels - place_of(plan.across) * own
    classes = own * size_of(plan.across)
    chunk = plan_chunk_rows(
        levels, len(z), own, rows.element_size(), on_host=z.device.type == "cpu", chunk_rows=plan.chunk_rows
    )
    losses = rows.new_empty(levels, len(z))
    for start in range(0, len(z), chunk):
        part = slice(start, start + chunk)
        x, target, factors = z[part], labels[part], rows[part]
        logits = _logits(plan, x, matrices, biases, wide)
        here = (target >= 0) & (target < own)
        index = torch.where(here, target, 0).expand(levels, -1).unsqueeze(-1)
        largest = reduced(logits.amax(-1), plan.across, dist.ReduceOp.MAX)
        picked = torch.where(here, logits.gather(-1, index).squeeze(-1) - largest, 0.0)
        mean = (logits - largest.unsqueeze(-1)).sum(-1) / classes if plan.label_smoothing else torch.zeros_like(picked)
        p = logits.sub_(largest.unsqueeze(-1)).exp_()
        sums, picked, mean = reduced(torch.stack([p.sum(-1), picked, mean]), plan.across, dist.ReduceOp.SUM).unbind()
        smoothing = plan.label_smoothing
        goal = picked if not smoothing else mean if smoothing == 1 else (1 - smoothing) * picked + smoothing * mean
        losses[:, part] = torch.where(factors == 0, 0.0, factors * (sums.log() - goal))
        if not any(needs):
            continue
        p.div_(sums.unsqueeze(-1)).sub_(smoothing / classes)
        p.scatter_add_(-1, index, (smoothing - 1) * here.to(wide).expand(levels, -1).unsqueeze(-1))
        p.mul_((weights.unsqueeze(-1) * factors).unsqueeze(-1))
        _add_gradients(plan, x, matrices, p, gradients, part)
    if gradients[0] is not None:  # of all classes
        gradients[0] = reduced(gradients[0], plan.across, dist.ReduceOp.SUM)
    return losses, gradients


def _logits(plan: Plan, x: Tensor, matrices: list[Tensor], biases: list[Tensor], wide: torch.dtype) -> Tensor:
    logits = torch.empty(len(plan.nesting), len(x), len(matrices[0]), dtype=wide, device=x.device)
    for g, place in enumerate(logits.unbind()):
        if plan.tied:
            start, stop = plan.nesting.blocks[g]
            matrix, before = matrices[0][:, start:stop], logits[g - 1] if g else biases[0] if biases else None
        else:
            start, stop, matrix = 0, plan.nesting.dims[g], matrices[g]
            before = biases[g] if biases else None
        if before is None:
            put_product(place, x[:, start:stop], matrix.mT, False)
        else:
            add_product(before, x[:, start:stop], matrix.mT, out=place)
    return logits


def _add_gradients(
    plan: Plan, x: Tensor, matrices: list[Tensor], residuals: Tensor, gradients: list[Tensor | None], part: slice
) -> None:
    """Of a chunk of rows; a tied head's block has the sum of all levels from its own."""
    dz, *others = gradients
    found: list[Any] = others
    dmatrices, dbiases = found[: len(matrices)], found[len(matrices) :]
    if plan.tied:
        for g in reversed(range(len(residuals) - 1)):
            residuals[g] += residuals[g + 1]
    for g, residual in enumerate(residuals.unbind()):
        start, stop = plan.nesting.blocks[g] if plan.tied else (0, plan.nesting.dims[g])
        place = 0 if plan.tied else g
        rounded = residual.to(x.dtype)
        if dz is not None:
            matrix = matrices[0][:, start:stop] if plan.tied else matrices[g]
            put_product(dz[part, start:stop], rounded, matrix, True)
        if dmatrices[place] is not None:
            put_product(dmatrices[place][:, start:stop], rounded.mT, x[:, start:stop], True)
        if dbiases and dbiases[place] is not None and (g == 0 or not plan.tied):
            dbiases[place] += residual.sum(0)
