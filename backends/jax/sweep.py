"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from mrl.nesting import Nesting

from .arrays import product

NARROW = 32  # columns


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int


def sweep(
    z: Array, leaves: tuple[Array, ...], labels: Array, rows: Array, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    work = partial(_sweep_chunks, plan=plan, needs=needs)
    shardings = [jax.typeof(x).sharding for x in (z, *leaves)]
    explicit = [sharding.mesh for sharding in shardings if sharding.mesh._any_axis_explicit]
    if explicit:
        # Where shardings are part of the types, the compiler still plans the kernel; its results are placed as
        # its arguments are.
        placed = [s if s.mesh == explicit[0] else NamedSharding(explicit[0], PartitionSpec()) for s in shardings]
        per_row = NamedSharding(explicit[0], PartitionSpec(None, placed[0].spec[0] if placed[0].spec else None))
        wanted = tuple(sharding if needed else None for sharding, needed in zip(placed, needs, strict=True))
        work = jax.sharding.auto_axes(work, out_sharding=(per_row, wanted))
    return work(z, leaves, labels, rows)


@partial(jax.jit, static_argnames=("plan", "needs"))
def _sweep_chunks(
    z: Array, leaves: tuple[Array, ...], labels: Array, rows: Array, *, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    z, leaves = z.astype(rows.dtype), tuple(leaf.astype(rows.dtype) for leaf in leaves)
    work = partial(_sweep_tied if plan.tied else _sweep_untied, leaves=leaves, plan=plan, needs=needs)
    count, chunks = len(z), -(-len(z) // plan.chunk_rows)
    if chunks <= 1:
        losses, dz, parts = work(z, labels, rows)
        return losses, (dz, *_assemble(parts, leaves))
    # Rows that fill up have weight zero. Every chunk takes rows from all over the batch, and so from every device
    # that holds a part of it.
    padded = [jnp.pad(x, ((0, chunks * plan.chunk_rows - count), *((0, 0),) * (x.ndim - 1))) for x in (z, labels, rows)]
    stacked = tuple(jnp.moveaxis(x.reshape(plan.chunk_rows, chunks, *x.shape[1:]), 1, 0) for x in padded)

    def step(sums: Any, chunk: Any) -> tuple[Any, Any]:
        losses, dz, parts = work(*chunk)
        return jax.tree.map(jnp.add, sums, parts), (losses, dz)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(work, *(x[0] for x in stacked))[2])
    parts, (losses, dz) = jax.lax.scan(step, zeros, stacked)
    dz = None if dz is None else jnp.moveaxis(dz, 0, 1).reshape(-1, z.shape[1])[:count]
    return jnp.moveaxis(losses, 0, 2).reshape(len(plan.nesting), -1)[:, :count], (dz, *_assemble(parts, leaves))


def _assemble(parts: tuple[Any, ...], leaves: tuple[Array, ...]) -> tuple[Array | None, ...]:
    """The gradient of each leaf, from the blocks of its columns where it comes in blocks."""
    return tuple(
        _side_by_side(x, leaf.shape[1]) if isinstance(x, list) else x for x, leaf in zip(parts, leaves, strict=True)
    )


def _side_by_side(parts: list[Array], width: int) -> Array:
    """Blocks of columns as one matrix, zero in the columns that no level has."""
    x = jnp.concatenate(parts, 1)
    return jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def _sweep_tied(
    z: Array, labels: Array, rows: Array, *, leaves: tuple[Array, ...], plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, Array | None, tuple[Any, ...]]:
    weight, bias = leaves if len(leaves) == 2 else (*leaves, 0)
    blocks = plan.nesting.blocks
    levels = [bias]
    for start, stop in blocks:
        levels.append(levels[-1] + product(z[:, start:stop], weight[:, start:stop].T))
    losses, residuals = zip(*(_residual(level, labels, rows, plan) for level in levels[1:]), strict=True)
    needs_z, needs_weight, needs_bias = (*needs, False)[:3]
    suffixes = list[Array]()
    for w, residual in zip(reversed(plan.nesting.weights), reversed(residuals), strict=True):
        suffixes.append(w * residual + (suffixes[-1] if suffixes else 0))
    suffixes.reverse()
    dz = dweight = dbias = None
    if needs_z:
        parts = [product(s, weight[:, start:stop]) for s, (start, stop) in zip(suffixes, blocks, strict=True)]
        dz = _side_by_side(parts, z.shape[1])
    if needs_weight:
        dweight = [_outer(s, z[:, start:stop]) for s, (start, stop) in zip(suffixes, blocks, strict=True)]
    if needs_bias:
        dbias = suffixes[0].sum(0)
    return jnp.stack(losses), dz, (dweight, dbias)[: len(leaves)]


def _outer(s: Array, z: Array) -> Array:
    """``s.T @ z``; a CPU is faster at a product of few rows than at one of few columns."""
    return product(z.T, s).T if z.shape[1] <= NARROW else product(s.T, z)


def _sweep_untied(
    z: Array, labels: Array, rows: Array, *, leaves: tuple[Array, ...], plan: Plan, needs: tuple[bool, ...]
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
    return jnp.stack(losses), dz, (*dweights, *dbiases)


def _residual(logits: Array, labels: Array, rows: Array, plan: Plan) -> tuple[Array, Array]:
    """The losses of one level, and the gradients of their sum for its logits."""
    smoothing, classes = plan.label_smoothing, logits.shape[-1]
    largest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - largest)
    sums = exponentials.sum(-1, keepdims=True)
    picked = jnp.take_along_axis(logits, labels[:, None], -1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logits.mean(-1, keepdims=True)
    spread = smoothing / classes * rows[:, None]
    target = jnp.where(labels[:, None] == jnp.arange(classes), (1 - smoothing) * rows[:, None] + spread, spread)
    residual = exponentials * (rows[:, None] / sums) - target
    return (largest + jnp.log(sums) - picked)[:, 0] * rows, residual
