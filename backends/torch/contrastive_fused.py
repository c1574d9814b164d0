"""The nested contrastive loss whose gradient is computed along with it, a chunk of anchors at a time.

Computes what ``contrastive.nested_contrastive(fused=False)`` and its backward pass compute, without allocating
``(G, rows, M)`` for more anchors than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``n`` the norms of prefixes,
``ds_g`` the gradient of the similarities of level g, and ``dK_g = ds_g / (n_a n_c temperature)`` that of its raw
products, all levels need one full-width product forward and two backward::

    K_g = K_{g-1} + A_g C_g^T        S_g = sum_{h >= g} dK_h        dA_g = S_g C_g        dC_g = S_g^T A_g

The gradient through a norm is a correction of rows: ``dA_g -= A_g sum_{h >= g} q_h / n_h^2`` with ``q_h`` the row sums
of ``ds_h * s_h``, which added up are ``-temperature`` times the gradient of the temperature too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mrl.nesting import Nesting

from .arrays import common_dtype, is_batched
from .contrastive_sweep import Plan, sweep
from .once import DifferentiableOnce, cannot_work, check_traceable, is_one, refuse_distributed, too_much

NAME = "nested_contrastive"


def fused_contrastive(
    a: Tensor,
    c: Tensor,
    temperatures: Tensor,
    exclude: Tensor | None,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    first: int,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """``(total, per_level)`` of the losses of the anchors ``a`` among the candidates ``c``."""
    check_traceable(NAME)
    refuse_distributed(NAME, (a, c))
    summed = reduction != "none"
    rows = temperatures.new_full(a.shape[:1], 1 / max(1, a.shape[0]) if reduction == "mean" else 1)
    arrays = a, c, temperatures
    needs = tuple(torch.is_grad_enabled() and x.requires_grad for x in arrays)
    plan = Plan(nesting, cosine, symmetric, first, common_dtype(a, c), summed, chunk_rows, needs)
    if torch.compiler.is_compiling():
        total, per_level, *_ = _operator(*arrays, exclude, rows, *_plain(plan))
        return total, per_level
    try:
        total, per_level, *_ = _FusedContrastive.apply(exclude, rows, plan, *arrays)
    except NotImplementedError as error:
        raise cannot_work(NAME, a) from error
    return total, per_level


def _forward(arrays: Sequence[Tensor], exclude: Tensor | None, rows: Tensor, plan: Plan) -> list[Tensor]:
    """Total, losses per level and, of a scalar loss, the gradients that are needed, up to a factor from above."""
    needs = plan.needs if plan.summed else (False,) * 3
    a, c, temperatures = arrays
    losses, gradients = sweep(a, c, temperatures, exclude, rows, replace(plan, needs=needs))
    per_level = losses.sum(-1) if plan.summed else losses
    weights = per_level.new_tensor(plan.nesting.weights)
    total = torch.tensordot(weights, per_level, 1)
    return [total, per_level, *(gradient for gradient in gradients if gradient is not None)]


def _gradients(
    arrays: Sequence[Tensor], exclude: Tensor | None, rows: Tensor, plan: Plan, upstream: Tensor, forward: Any
) -> list[Tensor]:
    """The gradients that are needed, from the start: where each anchor has a factor of its own, known only now."""
    return list(forward(arrays, exclude, rows * upstream, replace(plan, summed=True))[2:])


def _in_their_places(plan: Plan, arrays: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    found = iter(gradients)
    return [next(found).to(x.dtype) if needed else None for x, needed in zip(arrays, plan.needs, strict=True)]


class _FusedContrastive(torch.autograd.Function):
    @staticmethod
    def forward(exclude: Tensor | None, rows: Tensor, plan: Plan, *arrays: Tensor) -> tuple[Tensor, ...]:
        return tuple(_forward(arrays, exclude, rows, plan))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        exclude, rows, plan, *arrays = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(exclude, rows, *arrays)
        # Not saved but handed over, so that the backward pass can scale them in place and give them away.
        ctx.plan, ctx.gradients = plan, list(output[2:]) if plan.summed else None

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        exclude, rows, *arrays = ctx.saved_tensors  # once: activation checkpointing gives them once
        if upstream is None:
            return (None,) * 6
        if is_batched(upstream):
            raise too_much(NAME, "vmap over its gradient")
        gradients, ctx.gradients = ctx.gradients, None
        with torch.no_grad():
            if gradients is None:  # or a second pass through a retained graph
                gradients = _gradients(arrays, exclude, rows, ctx.plan, upstream, _forward)
            elif not is_one(upstream):
                gradients = [gradient.mul_(upstream) for gradient in gradients]
            found = _in_their_places(ctx.plan, arrays, gradients)
        if torch.is_grad_enabled():
            found = [None if g is None else DifferentiableOnce.apply(g, NAME, upstream, *arrays) for g in found]
        return None, None, None, *found

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise too_much(NAME, "forward-mode differentiation")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise too_much(NAME, "vmap")


def _plain(plan: Plan) -> tuple[Any, ...]:
    """A plan as the values that an operator takes."""
    return (
        plan.nesting.dims,
        plan.nesting.weights,
        plan.cosine,
        plan.symmetric,
        plan.first,
        plan.narrow,
        plan.summed,
        plan.chunk_rows,
        plan.needs,
    )


def _planned(dims: Sequence[int], weights: Sequence[float], *others: Any) -> Plan:
    cosine, symmetric, first, narrow, summed, chunk_rows, needs = others
    return Plan(Nesting(dims, weights), cosine, symmetric, first, narrow, summed, chunk_rows, tuple(needs))


# The kernels write their products into slices, which torch.compile does not trace: to it they are one operator.
@torch.library.custom_op(
    "mrl::nested_contrastive",
    mutates_args=(),
    schema="(Tensor a, Tensor c, Tensor temperatures, Tensor? exclude, Tensor rows, SymInt[] dims, float[] weights, "
    "bool cosine, bool symmetric, SymInt first, ScalarType narrow, bool summed, SymInt? chunk_rows, bool[] needs) "
    "-> Tensor[]",
)
def _operator(
    a: Tensor,
    c: Tensor,
    temperatures: Tensor,
    exclude: Tensor | None,
    rows: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    cosine: bool,
    symmetric: bool,
    first: int,
    narrow: torch.dtype,
    summed: bool,
    chunk_rows: int | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    if forward_ad._current_level >= 0:  # of a graph that was exported
        raise too_much(NAME, "forward-mode differentiation")
    plan = _planned(dims, weights, cosine, symmetric, first, narrow, summed, chunk_rows, needs)
    return _forward((a, c, temperatures), exclude, rows, plan)


@_operator.register_fake
def _(
    a: Tensor,
    c: Tensor,
    temperatures: Tensor,
    exclude: Tensor | None,
    rows: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    cosine: bool,
    symmetric: bool,
    first: int,
    narrow: torch.dtype,
    summed: bool,
    chunk_rows: int | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    shape = () if summed else (a.shape[0],)
    arrays = zip((a, c, temperatures), needs, strict=True)
    gradients = [torch.empty_like(x, dtype=rows.dtype) for x, needed in arrays if needed]
    return [rows.new_empty(shape), rows.new_empty(len(dims), *shape), *(gradients if summed else ())]


def _set_up_operator(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *arrays, exclude, rows = inputs[:5]
    ctx.plan = _planned(*inputs[5:])
    ctx.save_for_backward(exclude, rows, *arrays, *output[2:])
    ctx.set_materialize_grads(False)


def _operator_backward(ctx: Any, upstream: list[Tensor | None]) -> tuple[Any, ...]:
    def forward(arrays: Sequence[Tensor], exclude: Tensor | None, rows: Tensor, plan: Plan) -> list[Tensor]:
        return _operator(*arrays, exclude, rows, *_plain(plan))

    if any(x is not None for x in upstream[2:]):  # of the gradients, which are outputs too
        raise too_much(NAME, "a second derivative")
    plan, (exclude, rows, *arrays) = ctx.plan, ctx.saved_tensors
    arrays, gradients = arrays[:3], arrays[3:]
    asked = tuple(ctx.needs_input_grad[:3])
    if any(now and not then for now, then in zip(asked, plan.needs, strict=True)):
        # Frozen when the graph was exported, and not any more: all is computed now.
        plan = replace(plan, needs=asked, summed=False)
    if plan.summed:
        gradients = [upstream[0] * gradient for gradient in gradients]
    else:
        gradients = _gradients(arrays, exclude, rows, plan, upstream[0], forward)
    return *_in_their_places(plan, arrays, gradients), *(None,) * 11


_operator.register_autograd(_operator_backward, setup_context=_set_up_operator)
