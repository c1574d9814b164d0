"""The nested cross-entropy and its gradient, a chunk of rows at a time.

Computes what ``losses.nested_cross_entropy(fused=False)`` and its backward pass compute, without allocating
``(G, rows, C)``. With block g the columns ``m_{g-1}:m_g``, ``R_g`` the gradient of ``logits_g`` and
``S_g = sum_{h >= g} R_h``, a tied head needs one full-width product forward and two backward::

    logits_g = logits_{g-1} + Z_g W_g^T        dZ_g = S_g W_g        dW_g = S_g^T Z_g        db = sum_rows S_1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrl.heads import Head, TiedHead
from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

TILE_BYTES = 8 << 20  # logits of all levels that one pass of element-wise work keeps in a CPU's cache
NARROWEST = 16  # columns under which a CPU's matrix product falls back to a slow path


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int
    needs: tuple[bool, ...]  # which of z and the head's arrays need a gradient


def fused_cross_entropy(
    z: Tensor,
    head: Head,
    labels: Tensor,
    rows: Tensor,
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """``(total, per_level)`` of ``rows[i] * CE_g[i]``, summed over the examples or not."""
    tied = isinstance(head, TiedHead)
    if tied:
        leaves = (head.weight,) if head.bias is None else (head.weight, head.bias)
    else:
        leaves = (*head.weights, *(head.biases or ()))
    grad_enabled = torch.is_grad_enabled()
    plan = Plan(
        nesting,
        tied,
        label_smoothing,
        summed,
        plan_chunk_rows(
            len(nesting) if tied else 1,
            None if torch.compiler.is_compiling() else labels.numel(),
            leaves[0].shape[0],
            rows.element_size(),
            on_host=z.device.type == "cpu",
            chunk_rows=chunk_rows,
        ),
        tuple(grad_enabled and x.requires_grad for x in (z, *leaves)),
    )
    function = _FusedCrossEntropy if torch.compiler.is_compiling() else _ExplainedCrossEntropy
    total, per_level, *_ = function.apply(
        z.reshape(-1, z.shape[-1]), labels.reshape(-1), rows.reshape(-1), plan, *leaves
    )
    if not summed:
        total, per_level = total.reshape(labels.shape), per_level.reshape(len(nesting), *labels.shape)
    return total, per_level


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, labels: Tensor, rows: Tensor, plan: Plan, *leaves: Tensor) -> tuple[Tensor, ...]:
        # A scalar loss has its gradient computed here, up to the factor that comes back from above it.
        needs = plan.needs if plan.summed else (False,) * len(plan.needs)
        losses, *gradients = _sweep(z, leaves, labels, rows, plan, needs)
        per_level = losses.sum(1) if plan.summed else losses
        total = sum(weight * level for weight, level in zip(plan.nesting.weights, per_level.unbind(), strict=True))
        return total, per_level, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, labels, rows, plan, *leaves = inputs
        _, per_level, *gradients = output
        ctx.plan = plan
        ctx.mark_non_differentiable(per_level, *gradients)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(labels, rows, z, *leaves, *gradients)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        plan = ctx.plan
        inputs = len(plan.needs)
        if upstream is None:
            return (None,) * (3 + inputs)
        labels, rows, *saved = ctx.saved_tensors
        arrays, gradients = saved[:inputs], saved[inputs:]
        with torch.no_grad():
            if plan.summed:
                scaled = iter([upstream * gradient for gradient in gradients])
            else:
                _, *wide = _sweep(arrays[0], tuple(arrays[1:]), labels, rows * upstream, plan, plan.needs)
                scaled = iter(wide)
            found = [next(scaled).to(x.dtype) if needed else None for x, needed in zip(arrays, plan.needs, strict=True)]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = [None if g is None else _DifferentiableOnce.apply(g, upstream, *arrays) for g in found]
        dz, *dleaves = found
        return dz, None, None, None, *dleaves


class _ExplainedCrossEntropy(_FusedCrossEntropy):
    """With errors of its own for what it cannot do; torch.compile does not trace a class that has them."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _too_much("forward-mode differentiation")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise _too_much("vmap")


class _DifferentiableOnce(torch.autograd.Function):
    """A gradient that depends on ``inputs`` in a way that is not known: asking for it is an error, not zero."""

    @staticmethod
    def forward(gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        raise _too_much("a second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise _too_much("vmap over its gradient")


def _too_much(asked: str) -> RuntimeError:
    return RuntimeError(
        f"nested_cross_entropy: the fused form is differentiable once, in reverse; got {asked}; "
        "pass fused=False for the composed form"
    )


def _sweep(
    z: Tensor, leaves: tuple[Tensor, ...], labels: Tensor, rows: Tensor, plan: Plan, needs: tuple[bool, ...]
) -> list[Tensor]:
    if torch.compiler.is_compiling():
        nesting = plan.nesting
        return _opaque_sweep(
            z, list(leaves), labels, rows, nesting.dims, nesting.weights, *plan[1:3], plan.chunk_rows, needs
        )
    return _eager_sweep(z, leaves, labels, rows, plan, needs)


@torch.library.custom_op("mrl::nested_cross_entropy", mutates_args=())
def _opaque_sweep(
    z: Tensor,
    leaves: list[Tensor],
    labels: Tensor,
    rows: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    tied: bool,
    label_smoothing: float,
    chunk_rows: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    """One node of a compiled graph: its products write into slices, which torch.compile does not trace."""
    plan = Plan(Nesting(dims, weights), tied, label_smoothing, True, chunk_rows, tuple(needs))
    return _eager_sweep(z, tuple(leaves), labels, rows, plan, plan.needs)


@_opaque_sweep.register_fake
def _(
    z: Tensor,
    leaves: list[Tensor],
    labels: Tensor,
    rows: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    tied: bool,
    label_smoothing: float,
    chunk_rows: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    gradients = [torch.empty_like(x, dtype=rows.dtype) for x, needed in zip((z, *leaves), needs, strict=True) if needed]
    return [rows.new_empty(len(dims), len(z)), *gradients]


def _eager_sweep(
    z: Tensor, leaves: tuple[Tensor, ...], labels: Tensor, rows: Tensor, plan: Plan, needs: tuple[bool, ...]
) -> list[Tensor]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    wide = rows.dtype
    z, leaves = z.to(wide), tuple(leaf.to(wide) for leaf in leaves)
    gradients = [torch.zeros_like(x) if needed else None for x, needed in zip((z, *leaves), needs, strict=True)]
    losses = z.new_zeros(len(plan.nesting), len(z))
    sweep = _sweep_tied if plan.tied else _sweep_untied
    for start in range(0, len(z), plan.chunk_rows):
        chunk = slice(start, start + plan.chunk_rows)
        dz = None if gradients[0] is None else gradients[0][chunk]
        sweep(z[chunk], leaves, labels[chunk], rows[chunk], plan, losses[:, chunk], dz, gradients[1:])
    return [losses, *(gradient for gradient in gradients if gradient is not None)]


def _sweep_tied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    labels: Tensor,
    rows: Tensor,
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
) -> None:
    weight, bias = leaves if len(leaves) == 2 else (*leaves, None)
    dweight, dbias = dleaves if len(dleaves) == 2 else (*dleaves, None)
    blocks, width = plan.nesting.blocks, plan.nesting.width
    levels = z.new_empty(len(blocks), len(z), len(weight))
    before = z.new_zeros(()) if bias is None else bias
    for (start, stop), level in zip(blocks, levels, strict=True):
        before = torch.addmm(before, z[:, start:stop], weight[:, start:stop].mT, out=level)
    backward = any(gradient is not None for gradient in (dz, dweight, dbias))
    tile = len(z) if z.device.type != "cpu" else max(1, TILE_BYTES // (levels[:, 0].numel() * z.element_size()))
    for part in (slice(i, i + tile) for i in range(0, len(z), tile)):
        losses[:, part] = _residuals_(levels[:, part], labels[part], rows[part], plan, plan.nesting.weights, backward)
    if dbias is not None:
        dbias += levels[0].sum(0)
    for (start, stop), suffix in zip(blocks, levels, strict=True):
        # Columns computed beyond a narrow block are overwritten by the blocks after it, or left out.
        wider = max(stop, min(start + NARROWEST, width))
        if dz is not None:
            torch.mm(suffix, weight[:, start:wider], out=dz[:, start:wider])
        if dweight is not None and wider == stop:
            dweight[:, start:stop].addmm_(suffix.mT, z[:, start:stop])
        elif dweight is not None:
            dweight[:, start:stop] += (suffix.mT @ z[:, start:wider])[:, : stop - start]


def _sweep_untied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    labels: Tensor,
    rows: Tensor,
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
) -> None:
    count = len(plan.nesting)
    biases = leaves[count:] or (None,) * count
    dbiases = dleaves[count:] or [None] * count
    level = z.new_empty(1, len(z), len(leaves[0]))
    for g, m in enumerate(plan.nesting.dims):
        before = z.new_zeros(()) if biases[g] is None else biases[g]
        torch.addmm(before, z[:, :m], leaves[g].mT, out=level[0])
        backward = any(gradient is not None for gradient in (dz, dleaves[g], dbiases[g]))
        losses[g] = _residuals_(level, labels, rows, plan, plan.nesting.weights[g : g + 1], backward)[0]
        if dz is not None:
            dz[:, :m].addmm_(level[0], leaves[g])
        if dleaves[g] is not None:
            dleaves[g].addmm_(level[0].mT, z[:, :m])
        if dbiases[g] is not None:
            dbiases[g] += level[0].sum(0)


def _residuals_(
    levels: Tensor, labels: Tensor, rows: Tensor, plan: Plan, weights: tuple[float, ...], backward: bool
) -> Tensor:
    """The losses of ``levels`` (K, n, C); in place, its logits become the suffix sums ``S_g`` of their gradients."""
    smoothing, classes = plan.label_smoothing, levels.shape[-1]
    index = labels.unsqueeze(-1)
    largest = levels.amax(-1)
    picked = levels.gather(-1, index.expand(len(levels), -1, 1)).squeeze(-1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * levels.mean(-1)
    peaks = torch.empty_like(largest)
    p = torch.empty_like(levels[0])
    hit = p.new_full(index.shape, smoothing - 1)
    for g in reversed(range(len(levels))):
        torch.softmax(levels[g], -1, out=p)
        torch.amax(p, -1, out=peaks[g])
        if not backward:
            continue
        p.scatter_add_(1, index, hit)
        if smoothing:
            p -= smoothing / classes
        scale = (weights[g] * rows).unsqueeze(-1)
        if g == len(levels) - 1:
            torch.mul(p, scale, out=levels[g])
        else:
            torch.addcmul(levels[g + 1], p, scale, out=levels[g])
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse.
    return (largest - peaks.log_() - picked) * rows
