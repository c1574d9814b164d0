"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from mrl.nesting import Nesting
from mrl.planning import is_small, plan_groups

from .arrays import explicit_shardings, factor_dtype, lift, power_of_two, product
from .targets import dense_targets, has_dense_targets, times

NARROW = 32  # columns


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    shards: int  # parts of the batch that lie on devices of their own, as far as anybody knows
    chunk_rows: int | None  # of a shard; None: all of them in one chunk
    on_host: bool


class Rows(NamedTuple):
    """What there is of every example, ``(..., rows)`` or ``(..., rows, D or C)``."""

    z: Array
    labels: Array
    factors: Array  # of the loss
    scaled: Array  # of the gradient


class Shared(NamedTuple):
    """What all examples share."""

    leaves: tuple[Array, ...]
    class_weight: Array | None
    levels: Array | None  # the weights of the nesting times those of the caller, if he has any


def sweep(
    z: Array,
    leaves: tuple[Array, ...],
    fixed: tuple[Any, ...],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[Array, tuple[Array | None, ...]]:
    """``rows[i] * CE_g[i]`` as ``(G, ...)``, then the gradients that are needed, all in the dtype of ``rows``.

    ``fixed`` has no gradient: labels, ``rows``, the weights of classes and those of levels.
    """
    labels, rows, class_weight, levels = fixed
    work = partial(_sweep_chunks, plan=plan, needs=needs)
    placed = explicit_shardings((z, leaves))
    if placed is not None:
        per_row = NamedSharding(placed[0].mesh, PartitionSpec(None, *placed[0].spec[: z.ndim - 1]))
        wanted = tuple(sharding if needed else None for sharding, needed in zip(placed, needs, strict=True))
        work = jax.sharding.auto_axes(work, out_sharding=(per_row, wanted))
    return work(z, labels, rows, Shared(leaves, class_weight, levels))


@partial(jax.jit, static_argnames=("plan", "needs"))
def _sweep_chunks(
    z: Array, labels: Array, factors: Array, shared: Shared, *, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    lead, width, levels, wide = z.shape[:-1], z.shape[-1], len(plan.nesting), factors.dtype
    leaves = (x.astype(factor_dtype(z, x, wide) if x.ndim == 2 else wide) for x in shared.leaves)
    shared = shared._replace(leaves=tuple(leaves))
    scale = _scale(labels, factors, shared, plan) if any(needs) else None
    given = (z, labels, factors, factors if scale is None else factors / scale)
    rows = Rows(*(x.reshape(-1, *x.shape[len(lead) :]) for x in given))
    work = partial(_sweep_tied if plan.tied else _sweep_untied, shared=shared, plan=plan, needs=needs)
    count, size = rows.z.shape[0], plan.chunk_rows
    if size is None or count <= plan.shards * size:
        losses, dz, sums = work(rows, sums=None)
    else:
        # A chunk takes some rows of every shard, which each device has in its own memory; sums over the rows of a
        # shard stay there until the loop is over.
        shards, share = plan.shards, count // plan.shards
        chunks = -(-share // size)
        aside = (shards,) if shards > 1 else ()

        def split(x: Array) -> Array:
            x = x.reshape(shards, share, *x.shape[1:])
            if share % size:  # rows that fill up have factors of zero
                x = jnp.pad(x, ((0, 0), (0, chunks * size - share), *((0, 0),) * (x.ndim - 2)))
            x = jnp.moveaxis(x.reshape(shards, chunks, size, *x.shape[2:]), 1, 0)
            return x if aside else x[:, 0]

        def join(x: Array, axis: int) -> Array:
            """Chunks of the first axis, after ``axis`` others, as one axis of rows."""
            x = jnp.moveaxis(x, 0, axis + len(aside))
            x = x.reshape(*x.shape[:axis], shards, chunks * size, *x.shape[axis + len(aside) + 2 :])
            x = jax.lax.slice_in_dim(x, 0, share, axis=axis + 1)
            return x.reshape(*x.shape[:axis], count, *x.shape[axis + 2 :])

        def step(sums: Any, chunk: Rows) -> tuple[Any, Any]:
            losses, dz, sums = work(chunk, sums=sums)
            return sums, (losses, dz)

        zeros = tuple(
            jnp.zeros_like(leaf, wide, shape=(*aside, *leaf.shape)) if needed else None
            for leaf, needed in zip(shared.leaves, needs[1:], strict=True)
        )
        sums, (losses, dz) = jax.lax.scan(step, zeros, jax.tree.map(split, rows))
        losses, dz = join(losses, 1), None if dz is None else join(dz, 0)
        sums = tuple(None if x is None else x.sum(0) if aside else x for x in sums)
    gradients = (None if dz is None else dz.reshape(*lead, width), *sums)
    if scale is not None:
        gradients = tuple(None if x is None else x * scale for x in gradients)
    return losses.reshape(levels, *lead), gradients


def _scale(labels: Array, factors: Array, shared: Shared, plan: Plan) -> Array | None:
    """A power of two by which the gradient of logits fits into float16, in which it is multiplied, if it is.

    The largest of a level comes to 8 to 16: thousands of levels may be added up, and little is lost at the other end.
    """
    if all(leaf.dtype != jnp.float16 for leaf in shared.leaves):
        return None
    if jnp.issubdtype(labels.dtype, jnp.floating):
        factors = factors * labels.astype(factors.dtype).sum(-1)
    if shared.class_weight is not None:
        factors = factors * shared.class_weight.max()
    levels = jnp.asarray(plan.nesting.weights, factors.dtype) if shared.levels is None else shared.levels
    return power_of_two(factors * levels.max()) / 16


def _sweep_tied(
    rows: Rows, *, sums: tuple[Array | None, ...] | None, shared: Shared, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, Array | None, tuple[Array | None, ...]]:
    """Losses, ``dz``, and the gradients of the leaves: those of the only chunk, or added to ``sums``."""
    wide = rows.factors.dtype
    weight, z = shared.leaves[0], rows.z.astype(shared.leaves[0].dtype)
    bias = lift(shared.leaves[1], z.ndim) if len(shared.leaves) == 2 else 0
    dweight, dbias = (*(sums or (None,)), None)[:2]
    needs_z, needs_weight, needs_bias = (*needs, False)[:3]
    blocks, dims = plan.nesting.blocks, plan.nesting.dims
    goal, factors = _goal(rows, shared, plan), plan.nesting.weights if shared.levels is None else shared.levels
    # A chunk planned to be the only one is small enough for all its levels, and quickest in the compiler's own order.
    alone = sums is None
    groups = ((0, len(dims)),) if alone else plan_groups(dims, z.shape[-2] * len(weight) * wide.itemsize)
    in_order = plan.on_host and not alone
    losses, dzs, dweights = [None] * len(dims), [], []
    latest = suffix = None

    def columns(start: int, stop: int) -> Array:
        x = z[..., start:stop]
        return x if latest is None else _after(latest, x)

    for low, high in groups:
        first, levels = 0, [bias]
        for stop in dims[low:high]:
            levels.append(levels[-1] + product(columns(first, stop), weight[:, first:stop].T, wide))
            first, latest = stop, levels[-1] if in_order else None
        losses[low:high], residuals = _residuals(levels[1:], rows, goal, plan)
        if not any(needs):
            continue
        for g in reversed(range(low, high)):
            start, stop = blocks[g]
            suffix = times(residuals.pop(), factors[g]) + (0 if suffix is None else suffix)
            latest = suffix if in_order else None
            rounded = suffix.astype(z.dtype)
            if needs_z:
                dzs.append(product(rounded, weight[:, start:stop], wide))
            if needs_weight and alone:
                dweights.append(outer(rounded, columns(start, stop), wide))
            elif needs_weight:
                dweight = _add_block(dweight, outer(rounded, columns(start, stop), wide), start)
    # The last level came first.
    dz = side_by_side(dzs[::-1], z.shape[-1]) if needs_z else None
    if dweights:
        dweight = side_by_side(dweights[::-1], weight.shape[1])
    if needs_bias:
        dbias = suffix.sum(-2) if alone else dbias + suffix.sum(-2)
    return jnp.stack(losses), dz, (dweight, dbias)[: len(shared.leaves)]


def _after(first: Array, x: Array) -> Array:
    """``x``, once ``first`` is there: what a compiler starts early is in memory for longer.

    What is added is zero, with a sign that only ``first`` tells: an order that the compiler cannot take away.
    """
    return x + jnp.where(first[..., :1, :1] > 0, 0.0, -0.0).astype(x.dtype)


def _add_block(sums: Array, block: Array, start: int) -> Array:
    """``sums`` with ``block`` added to its columns from ``start``, which a loop does in place."""
    before = jax.lax.dynamic_slice_in_dim(sums, start, block.shape[-1], -1)
    return jax.lax.dynamic_update_slice_in_dim(sums, before + block, start, -1)


def side_by_side(parts: Sequence[Array], width: int) -> Array:
    """Blocks of columns as one matrix, zero in the columns that no level has."""
    x = jnp.concatenate(parts, -1)
    return jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, width - x.shape[-1])))


def outer(s: Array, z: Array, wide: np.dtype) -> Array:
    """``s.mT @ z``; a CPU is faster at a product of few rows than at one of few columns."""
    return product(z.mT, s, wide).mT if z.shape[-1] <= NARROW else product(s.mT, z, wide)


def _sweep_untied(
    rows: Rows, *, sums: tuple[Array | None, ...] | None, shared: Shared, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Array, Array | None, tuple[Array | None, ...]]:
    count, wide, leaves = len(plan.nesting), rows.factors.dtype, shared.leaves
    needs_z, needs_weights, needs_biases = needs[0], needs[1 : 1 + count], needs[1 + count :]
    goal, factors = _goal(rows, shared, plan), plan.nesting.weights if shared.levels is None else shared.levels
    losses, dzs, dweights, dbiases = [], [], [], []
    for g, m in enumerate(plan.nesting.dims):
        weight, z = leaves[g], rows.z[..., :m].astype(leaves[g].dtype)
        level = product(z, weight.T, wide)
        if needs_biases:
            level = level + lift(leaves[count + g], level.ndim)
        loss, residual = _residual(level, rows, goal, plan)
        losses.append(loss)
        residual = times(residual, factors[g])
        rounded = residual.astype(z.dtype)
        dzs.append(product(rounded, weight, wide) if needs_z else None)
        dweights.append(outer(rounded, z, wide) if needs_weights[g] else None)
        if needs_biases:
            dbiases.append(residual.sum(-2) if needs_biases[g] else None)
    dz = sum(side_by_side([part], rows.z.shape[-1]) for part in dzs) if needs_z else None
    gradients = (*dweights, *dbiases)
    return jnp.stack(losses), dz, jax.tree.map(jnp.add, sums, gradients) if sums is not None else gradients


def _goal(rows: Rows, shared: Shared, plan: Plan) -> Array | None:
    """The dense targets of a chunk, where it has them."""
    if not has_dense_targets(rows.labels, plan.label_smoothing, shared.class_weight):
        return None
    classes, dtype = shared.leaves[0].shape[0], rows.factors.dtype
    return dense_targets(rows.labels, classes, plan.label_smoothing, shared.class_weight, dtype)


def _residuals(levels: list[Array], rows: Rows, goal: Array | None, plan: Plan) -> tuple[list[Array], list[Array]]:
    """The losses of each level, and the gradients of their sums for its logits."""
    size = levels[0].size
    if isinstance(size, int) and is_small(len(levels), size * levels[0].dtype.itemsize):
        losses, residuals = _residual(jnp.stack(levels), rows, goal, plan)
        return list(losses), list(residuals)
    pairs = [_residual(level, rows, goal, plan) for level in levels]
    return [loss for loss, _ in pairs], [residual for _, residual in pairs]


def _residual(logits: Array, rows: Rows, goal: Array | None, plan: Plan) -> tuple[Array, Array]:
    """The losses of one level, or of many, and the gradients of their sum for its logits."""
    smoothing, classes, rank = plan.label_smoothing, logits.shape[-1], logits.ndim
    factors, scaled = lift(rows.factors, rank - 1), lift(rows.scaled, rank - 1)[..., None]
    largest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - largest)
    sums = exponentials.sum(-1, keepdims=True)
    # The logarithm comes last: beside a large logit it would be rounded.
    if goal is not None:
        goal = lift(goal, rank)
        shares = goal.sum(-1, keepdims=True)
        losses = jnp.where(goal == 0, 0, goal * (largest - logits)).sum(-1, keepdims=True) + shares * jnp.log(sums)
        residual = exponentials * (scaled * shares / sums) - scaled * goal
    else:
        labels = lift(rows.labels, rank - 1)[..., None]
        picked = 0
        if smoothing < 1:
            picked = jnp.take_along_axis(logits, jnp.broadcast_to(labels, (*logits.shape[:-1], 1)), -1)
        if smoothing:
            picked = (1 - smoothing) * picked + smoothing * logits.mean(-1, keepdims=True)
        losses = largest - picked + jnp.log(sums)
        spread = smoothing / classes * scaled
        labelled = labels == lift(jnp.arange(classes, dtype=labels.dtype), rank)
        residual = exponentials * (scaled / sums) - jnp.where(labelled, (1 - smoothing) * scaled + spread, spread)
    losses = losses[..., 0]
    # An ignored row's loss is infinite where the class 0 that stands in for its label is excluded by a logit of -inf.
    return jnp.where(factors == 0, 0, losses * factors), residual
