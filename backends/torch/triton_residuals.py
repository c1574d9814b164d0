"""The element-wise part of ``sweep.py`` as one Triton kernel: softmax, losses and suffix sums of all levels.

Computes what ``sweep._residuals_`` computes in several passes over each level: one program takes a row through its
levels, from the last to the first. It reads a level twice, the second time out of a cache, and writes it once::

    loss_g = rows sum_c u_c (lse(x_g) - x_gc)        S_g = S_{g+1} + w_g rows (softmax(x_g) sum_c u_c - u)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .targets import Targets

WIDEST_BLOCK_BYTES = 16 << 10  # classes that a program looks at at a time; more would not fit its registers
WARP_BYTES = 1 << 10  # of a block, to each warp: 32 bytes to a thread


def residuals_(
    levels: Tensor,
    targets: Targets,
    rows: Tensor,
    weights: Sequence[float | Tensor],
    label_smoothing: float,
    backward: bool,
    *,
    block: int | None = None,
) -> Tensor:
    """The losses of ``levels`` (K, n, C); in place, its logits become the suffix sums ``S_g`` of their gradients.

    One more than there are ``weights`` is the suffix sum of the levels above, which those of ``levels`` add to.
    """
    count, (places, n, classes) = len(weights), levels.shape
    losses = rows.new_empty(count, n)
    if not n:
        return losses
    rows = rows.contiguous()
    if targets.dense is None:
        wanted, mass, target_stride = targets.labels.contiguous(), rows, 0
    else:
        wanted = targets.dense if targets.dense.stride(1) == 1 else targets.dense.contiguous()
        mass, target_stride = targets.mass.contiguous(), wanted.stride(0)
    scales = _scales(rows, weights) if backward else rows.expand(count, n)
    if block is None:
        block = plan_block(classes, levels.element_size())
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(levels):
        _kernel[(n,)](
            levels,
            wanted,
            mass,
            rows,
            scales,
            losses,
            count,
            classes,
            levels.stride(0),
            levels.stride(1),
            target_stride,
            scales.stride(0),
            KEEP=1 - label_smoothing,
            SPREAD=label_smoothing / classes,
            DENSE=targets.dense is not None,
            BACKWARD=backward,
            ONTO=places > count,
            BLOCK=block,
            num_warps=plan_warps(block, levels.element_size()),
        )
    return losses


def plan_block(classes: int, itemsize: int) -> int:
    """The classes of one block, a power of two: all of them where they fit."""
    return min(1 << (classes - 1).bit_length(), WIDEST_BLOCK_BYTES // itemsize)


def plan_warps(block: int, itemsize: int) -> int:
    return max(1, min(16, block * itemsize // WARP_BYTES))


def _scales(rows: Tensor, weights: Sequence[float | Tensor]) -> Tensor:
    """``w_g rows`` as ``(K, n)``, made on the device: the kernel is not compiled anew for other weights."""
    if all(isinstance(weight, float) and weight == 1 for weight in weights):
        return rows.expand(len(weights), -1)
    scales = rows.new_empty(len(weights), len(rows))
    for weight, scale in zip(weights, scales.unbind(), strict=True):
        torch.mul(rows, weight, out=scale)
    return scales


@triton.jit
def _kernel(
    levels,
    targets,
    masses,
    rows,
    scales,
    losses,
    count,
    classes,
    level_stride,
    row_stride,
    target_stride,
    scale_stride,
    KEEP: tl.constexpr,  # a number that is not constant would arrive in float32
    SPREAD: tl.constexpr,
    DENSE: tl.constexpr,  # targets are shares of every class, not labels
    BACKWARD: tl.constexpr,
    ONTO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    dtype = levels.dtype.element_ty
    # Offsets into all levels need 64 bits.
    row = tl.program_id(0).to(tl.int64)
    n = tl.num_programs(0)
    last = tl.cast(count - 1, tl.int64)
    level = levels + row * row_stride + last * level_stride
    scale_at, loss_at = scales + row + last * scale_stride, losses + row + last * n
    factor = tl.load(rows + row)
    shares = targets + row * target_stride
    if DENSE:
        label = 0
        mass = tl.load(masses + row)
    else:
        label = tl.load(targets + row)
        mass = tl.full((), 1.0, dtype)
    for turn in range(count):
        largest = tl.full((), float("-inf"), dtype)
        shift = tl.full((), 0.0, dtype)
        total = tl.full((), 0.0, dtype)
        every = tl.full((), 0.0, dtype)
        seen = tl.full((), 0.0, dtype)
        for start in range(0, classes, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(level + columns, mask=columns < classes, other=float("-inf"))
            before = largest
            beside = shift
            largest = tl.maximum(largest, tl.max(x, 0))
            # Infinity minus infinity is NaN, which classes that are all excluded so far must not become.
            shift = tl.where(largest == float("-inf"), 0.0, largest)
            total = total * tl.exp(before - shift) + tl.sum(tl.exp(x - shift), 0)
            if DENSE:
                u = tl.load(shares + columns, mask=columns < classes, other=0.0)
                # What is summed is the distance from the largest so far; a share of nothing is left out.
                every += tl.where(seen == 0, 0.0, seen * (beside - shift)) + tl.sum(
                    tl.where(u == 0, 0.0, u * (x - shift)), 0
                )
                seen += tl.sum(u, 0)
            elif SPREAD > 0:
                every += tl.sum(tl.where(columns < classes, x, 0.0), 0)
        if DENSE:
            loss = mass * tl.log(total) - every
        elif KEEP == 0:
            loss = tl.log(total) + (shift - tl.full((), SPREAD, dtype) * every)
        elif SPREAD > 0:
            picked = tl.load(level + label)
            loss = tl.log(total) + (shift - (tl.full((), KEEP, dtype) * picked + tl.full((), SPREAD, dtype) * every))
        else:
            loss = tl.log(total) + (shift - tl.load(level + label))
        tl.store(loss_at, loss * factor)
        if BACKWARD:
            # All threads have read the logits that are overwritten now, and written the sums that are read.
            tl.debug_barrier()
            inverse = mass / total
            scale = tl.load(scale_at)
            for start in range(0, classes, BLOCK):
                columns = start + tl.arange(0, BLOCK)
                inside = columns < classes
                x = tl.load(level + columns, mask=inside, other=float("-inf"))
                if DENSE:
                    target = tl.load(shares + columns, mask=inside, other=0.0)
                else:
                    target = tl.where(columns == label, tl.full((), KEEP + SPREAD, dtype), tl.full((), SPREAD, dtype))
                # Above the last level, which comes first, there is nothing, or the sum to begin with.
                some = inside & ((turn > 0) | ONTO)
                above = tl.load(level + level_stride + columns, mask=some, other=0.0)
                tl.store(level + columns, above + scale * (tl.exp(x - shift) * inverse - target), mask=inside)
        level -= level_stride
        scale_at -= scale_stride
        loss_at -= n
