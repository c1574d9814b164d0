"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mrl.nesting import Nesting
from mrl.planning import plan_groups, plan_places

from .arrays import has_memory, multiplies
from .targets import Targets, dense_targets

TILE_BYTES = 4 << 20  # logits that one pass of element-wise work keeps in a CPU's cache
NARROW = 16  # a product of fewer columns takes a slow path on a CPU; its transpose, of fewer rows, does not


@dataclass(frozen=True)
class Plan:
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    narrow: torch.dtype  # of factors: what they are rounded to before they are multiplied
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int
    needs: tuple[bool, ...]  # which of z and the head's arrays need a gradient


def sweep(
    z: Tensor,
    leaves: Sequence[Tensor],
    labels: Tensor,
    rows: Tensor,
    class_weight: Tensor | None,
    level_weights: Tensor | None,
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    wide, width, matrices = rows.dtype, plan.nesting.width, 1 if plan.tied else len(plan.nesting)
    factor = plan.narrow if multiplies(plan.narrow, z.device) else wide
    # Left empty: the first chunk writes what those after it add to. Columns that no level has are zero.
    make = torch.empty_like if len(z) else torch.zeros_like
    gradients = [make(x, dtype=wide) if needed else None for x, needed in zip((z, *leaves), needs, strict=True)]
    for x in gradients[: 2 if plan.tied else 1]:
        if x is not None and x.shape[-1] > width:
            x[:, width:] = 0
    z = z.to(plan.narrow).to(factor)
    leaves = tuple(x.to(plan.narrow).to(factor) if i < matrices else x.to(wide) for i, x in enumerate(leaves))
    weights: tuple[float | Tensor, ...] = plan.nesting.weights
    if level_weights is not None:
        weights = tuple(w * x for w, x in zip(weights, level_weights.unbind(), strict=True))
    scale = _Scale(rows, labels, class_weight, weights) if factor == torch.float16 and any(needs) else None
    losses = z.new_empty(len(plan.nesting), len(z), dtype=wide)
    work = _sweep_tied if plan.tied else _sweep_untied
    for start in range(0, len(z), plan.chunk_rows):
        chunk = slice(start, start + plan.chunk_rows)
        dz = None if gradients[0] is None else gradients[0][chunk]
        targets = Targets(labels[chunk])
        if class_weight is not None or labels.is_floating_point():
            u = dense_targets(labels[chunk], class_weight, plan.label_smoothing, len(leaves[0]), wide)
            targets = Targets(None, u, u.sum(-1))
        work(
            z[chunk], leaves, targets, rows[chunk], weights, plan, losses[:, chunk], dz, gradients[1:], start > 0, scale
        )
    if scale is not None:
        for x in gradients[: 1 + matrices]:
            if x is not None:
                x.mul_(scale.largest)
    # An ignored row's loss is infinite where the class 0 that stands in for its label is excluded by a logit of -inf.
    return losses.masked_fill_(rows == 0, 0), gradients


def _sweep_tied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    targets: Targets,
    rows: Tensor,
    weights: tuple[float | Tensor, ...],
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
    add: bool,
    scale: _Scale | None,
) -> None:
    weight, bias = leaves if len(leaves) == 2 else (*leaves, None)
    dweight, dbias = dleaves if len(dleaves) == 2 else (*dleaves, None)
    blocks, dims = plan.nesting.blocks, plan.nesting.dims
    backward = any(gradient is not None for gradient in (dz, dweight, dbias))
    size = losses.element_size()
    groups = plan_groups(dims, len(z) * len(weight) * size)
    places = losses.new_empty(plan_places(groups), len(z), len(weight))
    tile = len(z) if z.device.type != "cpu" else max(1, TILE_BYTES // (places[:, 0].numel() * size))
    for low, high in groups:
        levels, factors = places[: high - low], weights[low:high]
        if backward and high < len(dims):  # the sum over all levels above goes behind those of the group
            levels = places[: high - low + 1]
            levels[-1] = places[0]
        before, first = losses.new_zeros(()) if bias is None else bias, 0
        for (_, stop), level in zip(blocks[low:high], levels, strict=False):
            before = add_product(before, z[:, first:stop], weight[:, first:stop].mT, out=level)
            first = stop
        if tile >= len(z):
            losses[low:high] = _residuals_(levels, targets, rows, plan.label_smoothing, factors, backward)
        else:  # a level at a time: what is done in place has to lie together
            for part in (slice(i, i + tile) for i in range(0, len(z), tile)):
                for g in reversed(range(high - low)):
                    losses[low + g : low + g + 1, part] = _residuals_(
                        levels[g : g + 2, part],
                        targets.part(part),
                        rows[part],
                        plan.label_smoothing,
                        factors[g : g + 1],
                        backward,
                    )
        for (start, stop), suffix in zip(blocks[low:high], levels, strict=False):
            if dz is not None or dweight is not None:
                suffix = _narrow(suffix, z.dtype, scale)
            if dz is not None:
                put_product(dz[:, start:stop], suffix, weight[:, start:stop], False)
            if dweight is not None:
                put_product(dweight[:, start:stop], suffix.mT, z[:, start:stop], add)
    if dbias is not None:
        _put(dbias, places[0].sum(0), add)


def _sweep_untied(
    z: Tensor,
    leaves: tuple[Tensor, ...],
    targets: Targets,
    rows: Tensor,
    weights: tuple[float | Tensor, ...],
    plan: Plan,
    losses: Tensor,
    dz: Tensor | None,
    dleaves: list[Tensor | None],
    add: bool,
    scale: _Scale | None,
) -> None:
    count = len(plan.nesting)
    biases = leaves[count:] or (None,) * count
    dbiases = dleaves[count:] or [None] * count
    level = losses.new_empty(1, len(z), len(leaves[0]))
    # The largest first: it writes all of dz, the others add to it.
    for g, m in reversed(tuple(enumerate(plan.nesting.dims))):
        before = losses.new_zeros(()) if biases[g] is None else biases[g]
        add_product(before, z[:, :m], leaves[g].mT, out=level[0])
        backward = any(gradient is not None for gradient in (dz, dleaves[g], dbiases[g]))
        losses[g] = _residuals_(level, targets, rows, plan.label_smoothing, weights[g : g + 1], backward)[0]
        if dz is not None or dleaves[g] is not None:
            residual = _narrow(level[0], z.dtype, scale)
        if dz is not None:
            put_product(dz[:, :m], residual, leaves[g], g + 1 < count)
        if dleaves[g] is not None:
            put_product(dleaves[g], residual.mT, z[:, :m], add)
        if dbiases[g] is not None:
            _put(dbiases[g], level[0].sum(0), add)


def _put(out: Tensor, x: Tensor, add: bool) -> None:
    out.add_(x) if add else out.copy_(x)


def put_product(out: Tensor, a: Tensor, b: Tensor, add: bool) -> Tensor:
    if a.dtype == out.dtype and out.shape[1] < NARROW:
        _put(out, torch.mm(b.mT, a.mT, out=out.new_empty(out.shape[::-1])).mT, add)
        return out
    if add:
        return add_product(out, a, b, out=out)
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(before: Tensor, a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    # Autocast leaves alone what is told where to write.
    if a.dtype == out.dtype:
        return torch.addmm(before, a, b, out=out)
    return torch.addmm(before, a, b, out_dtype=out.dtype, out=out)


class _Scale:
    """A power of two by which the gradient of logits fits into float16, before it is rounded to it.

    The largest of a level comes to 8 to 16: thousands of levels may be added up, and little is lost at the other end.
    """

    def __init__(
        self, rows: Tensor, labels: Tensor, class_weight: Tensor | None, weights: Sequence[float | Tensor]
    ) -> None:
        if labels.is_floating_point():
            rows = rows * labels.to(rows.dtype).sum(-1)
        largest = rows.abs().amax() if len(rows) else rows.new_ones(())
        largest = largest * (max(weights) if level_constants(weights) else torch.stack(tuple(weights)).amax())
        if class_weight is not None:
            largest = largest * class_weight.amax()
        exponent = torch.frexp(largest).exponent.clamp(-100, 100) - 4
        self.largest = torch.ldexp(torch.ones_like(largest), exponent)
        self.inverse = torch.ldexp(torch.ones_like(largest), -exponent)


def level_constants(weights: Sequence[float | Tensor]) -> bool:
    return not isinstance(weights[0], Tensor)


def _narrow(residuals: Tensor, dtype: torch.dtype, scale: _Scale | None) -> Tensor:
    """Rounded once to the dtype of the other factor."""
    if scale is None:
        return residuals.to(dtype)
    return torch.mul(residuals, scale.inverse, out=torch.empty_like(residuals, dtype=dtype))


def _residuals_(
    levels: Tensor,
    targets: Targets,
    rows: Tensor,
    label_smoothing: float,
    weights: Sequence[float | Tensor],
    backward: bool,
) -> Tensor:
    """The losses of ``levels`` (K, n, C); in place, its logits become the suffix sums ``S_g`` of their gradients.

    One more than there are ``weights`` is the suffix sum of the levels above, which those of ``levels`` add to.
    """
    in_one_kernel = triton_kernel(levels.device)
    if in_one_kernel and all(x is None or has_memory(x) for x in (levels, rows, *targets)):
        return in_one_kernel(levels, targets, rows, weights, label_smoothing, backward)
    count = len(weights)
    above = levels[count] if len(levels) > count else None
    levels = levels[:count]
    largest, mass = levels.amax(-1), targets.mass
    if targets.dense is None:
        picked = _picked(levels, targets.labels, label_smoothing) - largest
    else:
        picked = torch.stack([_shares(*level, targets.dense) for level in zip(levels, largest, strict=True)])
    p = torch.softmax(levels, -1, out=levels)  # a row is read for its maximum and sum before any of it is written
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse; its
    # logarithm comes last, because beside a large logit it would be rounded.
    above_largest = p.amax(-1).log_().neg_()
    losses = ((above_largest if mass is None else mass * above_largest) - picked) * rows
    if not backward:
        return losses
    if targets.dense is None:
        index = targets.labels.unsqueeze(-1).expand(count, -1, 1)
        p.scatter_add_(-1, index, p.new_full((), label_smoothing - 1).expand_as(index))
        if label_smoothing:
            p -= label_smoothing / levels.shape[-1]
    else:
        for level in p.unbind():
            level.mul_(mass.unsqueeze(-1)).sub_(targets.dense)
    scales = rows.unsqueeze(-1)
    for level, weight in zip(reversed(p.unbind()), reversed(weights), strict=True):
        factors = scales if isinstance(weight, float) and weight == 1 else weight * scales
        above = level.mul_(factors) if above is None else torch.addcmul(above, level, factors, out=level)
    return losses


def _picked(levels: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    if label_smoothing == 1:  # a share of nothing is left out: it would make NaN of a label that is excluded
        return levels.mean(-1)
    picked = levels.gather(-1, labels.unsqueeze(-1).expand(len(levels), -1, 1)).squeeze(-1)
    return (1 - label_smoothing) * picked + label_smoothing * levels.mean(-1) if label_smoothing else picked


def _shares(level: Tensor, largest: Tensor, u: Tensor) -> Tensor:
    """``sum_c u_c (s_c - largest)`` over the classes that have a share."""
    return (level - largest.unsqueeze(-1)).mul_(u).masked_fill_(u == 0, 0).sum(-1)


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
