"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mrl.nesting import Nesting

TILE_BYTES = 2 << 20  # logits that one pass of element-wise work keeps in a CPU's cache
NARROWEST = 16  # columns under which a CPU's matrix product falls back to a slow path


@dataclass(frozen=True)
class Plan:
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int
    needs: tuple[bool, ...]  # which of z and the head's arrays need a gradient


def sweep(
    z: Tensor, leaves: Sequence[Tensor], labels: Tensor, rows: Tensor, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    wide, width = rows.dtype, plan.nesting.width
    z, leaves = z.to(wide), tuple(leaf.to(wide) for leaf in leaves)
    # Left empty: the first chunk writes what those after it add to. Columns that no level has are zero.
    make = torch.empty_like if len(z) else torch.zeros_like
    gradients = [make(x) if needed else None for x, needed in zip((z, *leaves), needs, strict=True)]
    for x in gradients[: 2 if plan.tied else 1]:
        if x is not None and x.shape[-1] > width:
            x[:, width:] = 0
    losses = z.new_empty(len(plan.nesting), len(z))
    work = _sweep_tied if plan.tied else _sweep_untied
    for start in range(0, len(z), plan.chunk_rows):
        chunk = slice(start, start + plan.chunk_rows)
        dz = None if gradients[0] is None else gradients[0][chunk]
        work(z[chunk], leaves, labels[chunk], rows[chunk], plan, losses[:, chunk], dz, gradients[1:], start > 0)
    return losses, gradients


def _sweep_tied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    labels: Tensor,
    rows: Tensor,
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
    add: bool,
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
        _put(dbias, levels[0].sum(0), add)
    for (start, stop), suffix in zip(blocks, levels, strict=True):
        # Columns computed beyond a narrow block are overwritten by the blocks after it, or left out.
        wider = max(stop, min(start + NARROWEST, width))
        if dz is not None:
            torch.mm(suffix, weight[:, start:wider], out=dz[:, start:wider])
        if dweight is not None and wider == stop:
            _put_product(dweight[:, start:stop], suffix.mT, z[:, start:stop], add)
        elif dweight is not None:
            _put(dweight[:, start:stop], (suffix.mT @ z[:, start:wider])[:, : stop - start], add)


def _sweep_untied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    labels: Tensor,
    rows: Tensor,
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
    add: bool,
) -> None:
    count = len(plan.nesting)
    biases = leaves[count:] or (None,) * count
    dbiases = dleaves[count:] or [None] * count
    level = z.new_empty(1, len(z), len(leaves[0]))
    # The largest first: it writes all of dz, the others add to it.
    for g, m in reversed(tuple(enumerate(plan.nesting.dims))):
        before = z.new_zeros(()) if biases[g] is None else biases[g]
        torch.addmm(before, z[:, :m], leaves[g].mT, out=level[0])
        backward = any(gradient is not None for gradient in (dz, dleaves[g], dbiases[g]))
        losses[g] = _residuals_(level, labels, rows, plan, plan.nesting.weights[g : g + 1], backward)[0]
        if dz is not None:
            _put_product(dz[:, :m], level[0], leaves[g], g + 1 < count)
        if dleaves[g] is not None:
            _put_product(dleaves[g], level[0].mT, z[:, :m], add)
        if dbiases[g] is not None:
            _put(dbiases[g], level[0].sum(0), add)


def _put(out: Tensor, x: Tensor, add: bool) -> None:
    out.add_(x) if add else out.copy_(x)


def _put_product(out: Tensor, a: Tensor, b: Tensor, add: bool) -> None:
    out.addmm_(a, b) if add else torch.mm(a, b, out=out)


def _residuals_(
    levels: Tensor, labels: Tensor, rows: Tensor, plan: Plan, weights: tuple[float, ...], backward: bool
) -> Tensor:
    """The losses of ``levels`` (K, n, C); in place, its logits become the suffix sums ``S_g`` of their gradients."""
    in_one_kernel = triton_kernel(levels.device)
    if in_one_kernel and all(_has_memory(x) for x in (levels, labels, rows)):
        return in_one_kernel(levels, labels, rows, weights, plan.label_smoothing, backward)
    smoothing, classes, count = plan.label_smoothing, levels.shape[-1], len(levels)
    index = labels.unsqueeze(-1).expand(count, -1, 1)
    largest = levels.amax(-1)
    picked = levels.gather(-1, index).squeeze(-1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * levels.mean(-1)
    p = levels.softmax(-1)
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse.
    losses = (largest - p.amax(-1).log_() - picked) * rows
    if not backward:
        return losses
    p.scatter_add_(-1, index, p.new_full((), smoothing - 1).expand_as(index))
    if smoothing:
        p -= smoothing / classes
    scales = rows.unsqueeze(-1)
    torch.mul(p[-1], scales if weights[-1] == 1 else weights[-1] * scales, out=levels[-1])
    for g in reversed(range(count - 1)):
        torch.addcmul(levels[g + 1], p[g], scales, value=weights[g], out=levels[g])
    return losses


def _has_memory(x: Tensor) -> bool:
    """Whether a kernel can look at it: not at a tensor of another type, nor at what wraps one in ``torch.func``."""
    return type(x) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(x)


@cache
def triton_kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """What does the work of ``_residuals_`` in one kernel, where there is Triton and a GPU that it knows."""
    if device.type != "cuda":
        return None
    try:
        import triton  # noqa: F401
    except ImportError:
        return None
    from .triton_residuals import residuals_

    return residuals_ if torch.cuda.get_device_capability(device) >= (7, 0) else None
