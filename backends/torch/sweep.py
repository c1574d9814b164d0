"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mrl.nesting import Nesting
from mrl.planning import plan_groups, plan_places

from .arrays import has_memory

TILE_BYTES = 4 << 20  # logits that one pass of element-wise work keeps in a CPU's cache
NARROW = 16  # a product of fewer columns takes a slow path on a CPU; its transpose, of fewer rows, does not


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
    # An ignored row's loss is infinite where the class 0 that stands in for its label is excluded by a logit of -inf.
    return losses.masked_fill_(rows == 0, 0), gradients


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
    blocks, dims = plan.nesting.blocks, plan.nesting.dims
    backward = any(gradient is not None for gradient in (dz, dweight, dbias))
    groups = plan_groups(dims, len(z) * len(weight) * z.element_size())
    places = z.new_empty(plan_places(groups), len(z), len(weight))
    tile = len(z) if z.device.type != "cpu" else max(1, TILE_BYTES // (places[:, 0].numel() * z.element_size()))
    for low, high in groups:
        levels, weights = places[: high - low], plan.nesting.weights[low:high]
        if backward and high < len(dims):  # the sum over all levels above goes behind those of the group
            levels = places[: high - low + 1]
            levels[-1] = places[0]
        before, first = z.new_zeros(()) if bias is None else bias, 0
        for (_, stop), level in zip(blocks[low:high], levels, strict=False):
            before = torch.addmm(before, z[:, first:stop], weight[:, first:stop].mT, out=level)
            first = stop
        if tile >= len(z):
            losses[low:high] = _residuals_(levels, labels, rows, plan, weights, backward)
        else:  # a level at a time: what is done in place has to lie together
            for part in (slice(i, i + tile) for i in range(0, len(z), tile)):
                for g in reversed(range(high - low)):
                    losses[low + g : low + g + 1, part] = _residuals_(
                        levels[g : g + 2, part], labels[part], rows[part], plan, weights[g : g + 1], backward
                    )
        for (start, stop), suffix in zip(blocks[low:high], levels, strict=False):
            if dz is not None:
                _put_product(dz[:, start:stop], suffix, weight[:, start:stop], False)
            if dweight is not None:
                _put_product(dweight[:, start:stop], suffix.mT, z[:, start:stop], add)
    if dbias is not None:
        _put(dbias, places[0].sum(0), add)


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
    # Autocast leaves alone what is told where to write.
    if out.shape[1] < NARROW:
        _put(out, torch.mm(b.mT, a.mT, out=out.new_empty(out.shape[::-1])).mT, add)
    elif add:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


def _residuals_(
    levels: Tensor, labels: Tensor, rows: Tensor, plan: Plan, weights: tuple[float, ...], backward: bool
) -> Tensor:
    """The losses of ``levels`` (K, n, C); in place, its logits become the suffix sums ``S_g`` of their gradients.

    One more than there are ``weights`` is the suffix sum of the levels above, which those of ``levels`` add to.
    """
    in_one_kernel = triton_kernel(levels.device)
    if in_one_kernel and all(has_memory(x) for x in (levels, labels, rows)):
        return in_one_kernel(levels, labels, rows, weights, plan.label_smoothing, backward)
    smoothing, classes, count = plan.label_smoothing, levels.shape[-1], len(weights)
    above = levels[count] if len(levels) > count else None
    levels = levels[:count]
    index = labels.unsqueeze(-1).expand(count, -1, 1)
    largest, picked = levels.amax(-1), levels.gather(-1, index).squeeze(-1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * levels.mean(-1)
    p = torch.softmax(levels, -1, out=levels)  # a row is read for its maximum and sum before any of it is written
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse; its
    # logarithm comes last, because beside a large logit it would be rounded.
    losses = (largest - picked - p.amax(-1).log_()) * rows
    if not backward:
        return losses
    p.scatter_add_(-1, index, p.new_full((), smoothing - 1).expand_as(index))
    if smoothing:
        p -= smoothing / classes
    scales = rows.unsqueeze(-1)
    for level, weight in zip(reversed(p.unbind()), reversed(weights), strict=True):
        if above is None:
            above = level.mul_(scales if weight == 1 else weight * scales)
        else:
            above = torch.addcmul(above, level, scales, value=weight, out=level)
    return losses


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
