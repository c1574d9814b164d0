"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from mrl.nesting import Nesting
from mrl.planning import is_small, plan_groups

from .arrays import product

NARROW = 32  # columns


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int | None  # None: all of them in one chunk
    on_host: bool


def sweep(
    z: Array, leaves: tuple[Array, ...], labels: Array, rows: Array, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    """``rows[i] * CE_g[i]`` as ``(G, ...)``, then the gradients that are needed, all in the dtype of ``rows``."""
    work = partial(_sweep_chunks, plan=plan, needs=needs)
    shardings = [jax.typeof(x).sharding for x in (z, *leaves)]
    explicit = [sharding.mesh for sharding in shardings if sharding.mesh._any_axis_explicit]
    if explicit:
        # Where shardings are part of the types, the compiler still plans the kernel; its results are placed as
        # its arguments are.
        placed = [s if s.mesh == explicit[0] else NamedSharding(explicit[0], PartitionSpec()) for s in shardings]
        per_row = NamedSharding(explicit[0], PartitionSpec(None, *placed[0].spec[: z.ndim - 1]))
        wanted = tuple(sharding if needed else None for sharding, needed in zip(placed, needs, strict=True))
        work = jax.sharding.auto_axes(work, out_sharding=(per_row, wanted))
    return work(z, leaves, labels, rows)


@partial(jax.jit, static_argnames=("plan", "needs"))
def _sweep_chunks(
    z: Array, leaves: tuple[Array, ...], labels: Array, rows: Array, *, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    lead, levels = labels.shape, len(plan.nesting)
    z, labels, rows = z.reshape(-1, z.shape[-1]).astype(rows.dtype), labels.reshape(-1), rows.reshape(-1)
    leaves = tuple(leaf.astype(rows.dtype) for leaf in leaves)
    work = partial(_sweep_tied if plan.tied else _sweep_untied, leaves=leaves, plan=plan, needs=needs)
    count, size = z.shape[0], plan.chunk_rows
    if size is None or count <= size:
        losses, dz, sums = work(z, labels, rows, sums=None)
        return losses.reshape(levels, *lead), (None if dz is None else dz.reshape(*lead, z.shape[1]), *sums)
    chunks = -(-count // size)
    # Rows that fill up have weight zero. On a host a chunk takes rows that lie together, as reshaped; elsewhere
    # rows from all over the batch, and so from every device that holds a part of it.
    axis, shape = (0, (chunks, size)) if plan.on_host else (1, (size, chunks))
    padded = [jnp.pad(x, ((0, chunks * size - count), *((0, 0),) * (x.ndim - 1))) for x in (z, labels, rows)]
    stacked = tuple(jnp.moveaxis(x.reshape(*shape, *x.shape[1:]), axis, 0) for x in padded)

    def step(sums: Any, chunk: Any) -> tuple[Any, Any]:
        losses, dz, sums = work(*chunk, sums=sums)
        return sums, (losses, dz)

    zeros = tuple(jnp.zeros_like(leaf) if needed else None for leaf, needed in zip(leaves, needs[1:], strict=True))
    sums, (losses, dz) = jax.lax.scan(step, zeros, stacked)
    losses = jnp.moveaxis(losses, 0, 1 + axis).reshape(levels, -1)[:, :count].reshape(levels, *lead)
    if dz is not None:
        dz = jnp.moveaxis(dz, 0, axis).reshape(-1, z.shape[1])[:count].reshape(*lead, z.shape[1])
    return losses, (dz, *sums)


def _sweep_tied(
    z: Array,
    labels: Array,
    rows: Array,
    *,
    sums: tuple[Array | None, ...] | None,
    leaves: tuple[Array, ...],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[Array, Array | None, tuple[Array | None, ...]]:
    """Losses, ``dz``, and the gradients of the leaves: those of the only chunk, or added to ``sums``."""
    weight, bias = leaves if len(leaves) == 2 else (*leaves, 0)
    dweight, dbias = (*(sums or (None,)), None)[:2]
    needs_z, needs_weight, needs_bias = (*needs, False)[:3]
    blocks, dims = plan.nesting.blocks, plan.nesting.dims
    # A chunk planned to be the only one is small enough for all its levels, and quickest in the compiler's own order.
    alone = sums is None
    groups = ((0, len(dims)),) if alone else plan_groups(dims, z.shape[0] * len(weight) * z.dtype.itemsize)
    in_order = plan.on_host and not alone
    losses, dzs, dweights = [None] * len(dims), [], []
    latest = suffix = None

    def columns(start: int, stop: int) -> Array:
        x = z[:, start:stop]
        return x if latest is None else _after(latest, x)

    for low, high in groups:
        first, levels = 0, [bias]
        for stop in dims[low:high]:
            levels.append(levels[-1] + product(columns(first, stop), weight[:, first:stop].T))
            first, latest = stop, levels[-1] if in_order else None
        losses[low:high], residuals = _residuals(levels[1:], labels, rows, plan)
        if not any(needs):
            continue
        for g in reversed(range(low, high)):
            start, stop = blocks[g]
            suffix = plan.nesting.weights[g] * residuals.pop() + (0 if suffix is None else suffix)
            latest = suffix if in_order else None
            if needs_z:
                dzs.append(product(suffix, weight[:, start:stop]))
            if needs_weight and alone:
                dweights.append(_outer(suffix, columns(start, stop)))
            elif needs_weight:
                dweight = _add_block(dweight, _outer(suffix, columns(start, stop)), start)
    # The last level came first.
    dz = _side_by_side(dzs[::-1], z.shape[1]) if needs_z else None
    if dweights:
        dweight = _side_by_side(dweights[::-1], weight.shape[1])
    if needs_bias:
        dbias = suffix.sum(0) if alone else dbias + suffix.sum(0)
    return jnp.stack(losses), dz, (dweight, dbias)[: len(leaves)]


def _after(first: Array, x: Array) -> Array:
    """``x``, once ``first`` is there: what a compiler starts early is in memory for longer.

    What is added is zero, with a sign that only ``first`` tells: an order that the compiler cannot take away.
    """
    return x + jnp.where(first[0, 0] > 0, 0.0, -0.0)


def _add_block(sums: Array, block: Array, start: int) -> Array:
    """``sums`` with ``block`` added to its columns from ``start``, which a loop does in place."""
    before = jax.lax.dynamic_slice_in_dim(sums, start, block.shape[1], 1)
    return jax.lax.dynamic_update_slice_in_dim(sums, before + block, start, 1)


def _side_by_side(parts: list[Array], width: int) -> Array:
    """Blocks of columns as one matrix, zero in the columns that no level has."""
    x = jnp.concatenate(parts, 1)
    return jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def _outer(s: Array, z: Array) -> Array:
    """``s.T @ z``; a CPU is faster at a product of few rows than at one of few columns."""
    return product(z.T, s).T if z.shape[1] <= NARROW else product(s.T, z)


def _sweep_untied(
    z: Array,
    labels: Array,
    rows: Array,
    *,
    sums: tuple[Array | None, ...] | None,
    leaves: tuple[Array, ...],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[Array, Array | None, tuple[Array | None, ...]]:
    count = len(plan.nesting)
    needs_z, needs_weights, needs_biases = needs[0], needs[1 : 1 + count], needs[1 + count :]
    losses, dzs, dweights, dbiases = [], [], [], []
    for g, (m, w) in enumerate(zip(plan.nesting.dims, plan.nesting.weights, strict=True)):
        level = product(z[:, :m], leaves[g].T)
        loss, residual = _residual(level + leaves[count + g] if needs_biases else level, labels, rows, plan)
        losses.append(loss)
        residual = w * residual
        dzs.append(product(residual, leaves[g]) if needs_z else None)
        dweights.append(_outer(residual, z[:, :m]) if needs_weights[g] else None)
        if needs_biases:
            dbiases.append(residual.sum(0) if needs_biases[g] else None)
    dz = sum(_side_by_side([part], z.shape[1]) for part in dzs) if needs_z else None
    gradients = (*dweights, *dbiases)
    return jnp.stack(losses), dz, jax.tree.map(jnp.add, sums, gradients) if sums is not None else gradients


def _residuals(levels: list[Array], labels: Array, rows: Array, plan: Plan) -> tuple[list[Array], list[Array]]:
    """The losses of each level, and the gradients of their sums for its logits."""
    size = levels[0].size
    if isinstance(size, int) and is_small(len(levels), size * levels[0].dtype.itemsize):
        losses, residuals = _residual(jnp.stack(levels), labels, rows, plan)
        return list(losses), list(residuals)
    pairs = [_residual(level, labels, rows, plan) for level in levels]
    return [loss for loss, _ in pairs], [residual for _, residual in pairs]


def _residual(logits: Array, labels: Array, rows: Array, plan: Plan) -> tuple[Array, Array]:
    """The losses of one level, or of many, and the gradients of their sum for its logits."""
    smoothing, classes = plan.label_smoothing, logits.shape[-1]
    largest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - largest)
    sums = exponentials.sum(-1, keepdims=True)
    index = jnp.broadcast_to(labels[:, None], (*logits.shape[:-1], 1))
    picked = jnp.take_along_axis(logits, index, -1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logits.mean(-1, keepdims=True)
    spread = smoothing / classes * rows[:, None]
    labelled = labels[:, None] == jnp.arange(classes, dtype=labels.dtype)
    target = jnp.where(labelled, (1 - smoothing) * rows[:, None] + spread, spread)
    residual = exponentials * (rows[:, None] / sums) - target
    # The logarithm comes last: beside a large logit it would be rounded.
    losses = (largest - picked + jnp.log(sums))[..., 0]
    # An ignored row's loss is infinite where the class 0 that stands in for its label is excluded by a logit of -inf.
    return jnp.where(rows == 0, 0, losses * rows), residual
