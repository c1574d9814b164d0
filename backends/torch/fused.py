"""The nested cross-entropy whose gradient is computed along with it, a chunk of rows at a time.

Computes what ``losses.nested_cross_entropy(fused=False)`` and its backward pass compute, without allocating
``(G, rows, C)`` for more rows than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``R_g`` the gradient of
``logits_g`` and ``S_g = sum_{h >= g} R_h``, a tied head needs one full-width product forward and two backward::

    logits_g = logits_{g-1} + Z_g W_g^T        dZ_g = S_g W_g        dW_g = S_g^T Z_g        db = sum_rows S_1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mrl.heads import Head, TiedHead, head_leaves
from mrl.nesting import Nesting
from mrl.planning import ENOUGH_ROWS, plan_chunk_rows, plan_groups, plan_places

from .arrays import factor_dtype, is_batched
from .once import DifferentiableOnce, cannot_work, check_traceable, is_one, refuse_distributed, too_much
from .sweep import Plan, sweep

NAME = "nested_cross_entropy"

Data: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Labels or probabilities, factors of the rows, of the classes, and of the levels."""


def fused_cross_entropy(
    z: Tensor,
    head: Head,
    labels: Tensor,
    rows: Tensor,
    class_weight: Tensor | None,
    level_weights: Tensor | None,
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """``(total, per_level)`` of ``rows[i] * CE_g[i]``, summed over the examples or not."""
    tied, leaves = isinstance(head, TiedHead), head_leaves(head)
    compiling, grad_enabled = torch.compiler.is_compiling(), torch.is_grad_enabled()
    check_traceable(NAME)
    refuse_distributed(NAME, (z, *leaves))
    count, classes = None if compiling else rows.numel(), leaves[0].shape[0]
    # Compiled for any number of rows, a chunk is planned as if there were many.
    level_bytes = (ENOUGH_ROWS if count is None else count) * classes * rows.element_size()
    soft = labels.is_floating_point()
    chunk = plan_chunk_rows(
        (plan_places(plan_groups(nesting.dims, level_bytes)) if tied else 1)
        + (2 if soft or class_weight is not None else 0),
        count,
        classes,
        rows.element_size(),
        on_host=z.device.type == "cpu",
        chunk_rows=chunk_rows,
    )
    needs = tuple(grad_enabled and x.requires_grad for x in (z, *leaves))
    narrow, lead = factor_dtype(z, head), rows.shape
    z, rows = z.reshape(-1, z.shape[-1]), rows.reshape(-1)
    data = labels.reshape(-1, classes) if soft else labels.reshape(-1), rows, class_weight, level_weights
    if compiling:
        total, per_level, *_ = _operator(
            z, *data, leaves, nesting.dims, nesting.weights, tied, label_smoothing, narrow, summed, chunk, needs
        )
    else:
        plan = Plan(nesting, tied, label_smoothing, narrow, summed, chunk, needs)
        try:
            total, per_level, *_ = _FusedCrossEntropy.apply(z, *data, plan, *leaves)
        except NotImplementedError as error:
            raise cannot_work(NAME, z) from error
    if not summed:
        total, per_level = total.reshape(lead), per_level.reshape(len(nesting), *lead)
    return total, per_level


def _forward(z: Tensor, data: Data, plan: Plan, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Total, losses per level and, of a scalar loss, the gradients that are needed, up to a factor from above."""
    needs = plan.needs if plan.summed else (False,) * len(plan.needs)
    losses, gradients = sweep(z, leaves, *data, plan, needs)
    per_level = losses.sum(1) if plan.summed else losses
    total = torch.zeros_like(per_level[0])
    for g, (weight, level) in enumerate(zip(plan.nesting.weights, per_level.unbind(), strict=True)):
        if data[3] is None:
            total.add_(level, alpha=weight)
        else:
            total += torch.where(data[3][g] == 0, 0.0, weight * data[3][g] * level)
    return [total, per_level, *(gradient for gradient in gradients if gradient is not None)]


def _gradients(plan: Plan, arrays: Sequence[Tensor], data: Data, upstream: Tensor, forward: Any) -> list[Tensor]:
    """The gradients that are needed, from the start: where each example has a factor of its own, known only now."""
    (z, *leaves), (labels, rows, *weights) = arrays, data
    rows = torch.where(rows == 0, 0.0, rows * upstream)
    return list(forward(z, (labels, rows, *weights), replace(plan, summed=True), leaves)[2:])


def _in_their_places(plan: Plan, arrays: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    found = iter(gradients)
    return [next(found).to(x.dtype) if needed else None for x, needed in zip(arrays, plan.needs, strict=True)]


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        z: Tensor,
        labels: Tensor,
        rows: Tensor,
        class_weight: Tensor | None,
        level_weights: Tensor | None,
        plan: Plan,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(_forward(z, (labels, rows, class_weight, level_weights), plan, leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, *data, plan = inputs[:6]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*data, z, *inputs[6:])
        # Not saved but handed over, so that the backward pass can scale them in place and give them away.
        ctx.plan, ctx.gradients = plan, list(output[2:]) if plan.summed else None

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: what recomputes them for activation checkpointing gives them once
        plan, data, arrays = ctx.plan, saved[:4], saved[4:]
        if upstream is None:
            return (None,) * (6 + len(arrays) - 1)
        if is_batched(upstream):
            raise too_much(NAME, "vmap over its gradient")
        gradients, ctx.gradients = ctx.gradients, None
        with torch.no_grad():
            if gradients is None:  # or a second pass through a retained graph
                gradients = _gradients(plan, arrays, data, upstream, _forward)
            elif not is_one(upstream):
                gradients = [gradient.mul_(upstream) for gradient in gradients]
            dz, *dleaves = _in_their_places(plan, arrays, gradients)
        if torch.is_grad_enabled():
            dz, *dleaves = (
                None if g is None else DifferentiableOnce.apply(g, NAME, upstream, *arrays) for g in (dz, *dleaves)
            )
        return dz, *(None,) * 5, *dleaves

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise too_much(NAME, "forward-mode differentiation")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise too_much(NAME, "vmap")


# The kernels write their products into slices, which torch.compile does not trace: to it they are one operator.
@torch.library.custom_op(
    "mrl::nested_cross_entropy",
    mutates_args=(),
    # Written out because PyTorch 2.6 does not read ``list[Tensor]``.
    schema="(Tensor z, Tensor labels, Tensor rows, Tensor? class_weight, Tensor? level_weights, Tensor[] leaves, "
    "SymInt[] dims, float[] weights, bool tied, float label_smoothing, ScalarType narrow, bool summed, "
    "SymInt chunk_rows, bool[] needs) -> Tensor[]",
)
def _operator(
    z: Tensor,
    labels: Tensor,
    rows: Tensor,
    class_weight: Tensor | None,
    level_weights: Tensor | None,
    leaves: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float],
    tied: bool,
    label_smoothing: float,
    narrow: torch.dtype,
    summed: bool,
    chunk_rows: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    if forward_ad._current_level >= 0:  # of a graph that was exported
        raise too_much(NAME, "forward-mode differentiation")
    plan = Plan(Nesting(dims, weights), tied, label_smoothing, narrow, summed, chunk_rows, tuple(needs))
    return _forward(z, (labels, rows, class_weight, level_weights), plan, leaves)


@_operator.register_fake
def _(
    z: Tensor,
    labels: Tensor,
    rows: Tensor,
    class_weight: Tensor | None,
    level_weights: Tensor | None,
    leaves: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float],
    tied: bool,
    label_smoothing: float,
    narrow: torch.dtype,
    summed: bool,
    chunk_rows: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    shape = () if summed else (z.shape[0],)  # len(z) would make the traced graph one for this many rows
    gradients = [torch.empty_like(x, dtype=rows.dtype) for x, needed in zip((z, *leaves), needs, strict=True) if needed]
    return [rows.new_empty(shape), rows.new_empty(len(dims), *shape), *(gradients if summed else ())]


def _set_up_operator(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    z, *data, leaves = inputs[:6]
    dims, weights, tied, label_smoothing, narrow, summed, chunk_rows, needs = inputs[6:]
    ctx.plan = Plan(Nesting(dims, weights), tied, label_smoothing, narrow, summed, chunk_rows, tuple(needs))
    ctx.save_for_backward(*data, z, *leaves, *output[2:])
    ctx.set_materialize_grads(False)


def _operator_backward(ctx: Any, upstream: list[Tensor | None]) -> tuple[Any, ...]:
    def forward(z: Tensor, data: Data, plan: Plan, leaves: Sequence[Tensor]) -> list[Tensor]:
        nesting = plan.nesting
        return _operator(
            z, *data, leaves, nesting.dims, nesting.weights, plan.tied, plan.label_smoothing, plan.narrow, True,
            plan.chunk_rows, plan.needs,
        )  # fmt: skip

    if any(x is not None for x in upstream[2:]):  # of the gradients, which are outputs too
        raise too_much(NAME, "a second derivative")
    plan, saved = ctx.plan, ctx.saved_tensors
    stop = 4 + len(plan.needs)
    data, arrays, gradients = saved[:4], saved[4:stop], saved[stop:]
    asked = (ctx.needs_input_grad[0], *ctx.needs_input_grad[5])
    if any(now and not then for now, then in zip(asked, plan.needs, strict=True)):
        # Frozen when the graph was exported, and not any more: all is computed now.
        plan = replace(plan, needs=asked, summed=False)
    if plan.summed:
        gradients = [upstream[0] * gradient for gradient in gradients]
    else:
        gradients = _gradients(plan, arrays, data, upstream[0], forward)
    dz, *dleaves = _in_their_places(plan, arrays, gradients)
    return dz, *(None,) * 4, dleaves, *(None,) * 8


_operator.register_autograd(_operator_backward, setup_context=_set_up_operator)
