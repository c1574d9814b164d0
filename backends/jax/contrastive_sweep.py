"""The loop over chunks of anchors, the products and the element-wise work of the fused contrastive loss."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from mrl.nesting import Nesting

from .arrays import explicit_shardings, product
from .contrastive_sides import Side, side_of, through_the_norm
from .sweep import outer


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    cosine: bool
    symmetric: bool
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    shards: int  # parts of the batch that lie on devices of their own, as far as anybody knows
    on_host: bool  # where looking at values costs nothing
    chunk_rows: int | None  # of a shard; None: all of them in one chunk


class Rows(NamedTuple):
    """What there is of every anchor, ``(..., rows)`` or ``(..., rows, D or G or M)``."""

    side: Side
    factors: Array  # of the loss
    own: Array  # its candidate; -1 in rows that fill up a chunk
    exclude: Array | None


class Others(NamedTuple):
    """What all anchors share."""

    x: Array  # (M, D), the candidates
    right: Array  # (G, M), what products are multiplied by: 1 / (norm * temperature)
    columns: Array | None  # (G, M), the log-sum-exps over all anchors, infinite of what is no positive
    factors: Array | None  # (M,), of the losses of columns


class Found(NamedTuple):
    """Of a chunk, for each anchor and, in ``dc`` and ``radial_c``, for each candidate."""

    losses: Array  # (..., rows, G)
    da: tuple[Array, ...] | None  # of every block of columns
    radial_a: Array | None  # (..., rows, G), of every level, the product of a prefix with its gradient as unit vectors
    dc: tuple[Array, ...] | None
    radial_c: Array | None  # (..., M, G)


def sweep(
    arrays: tuple[Array, Array, Array], fixed: tuple[Any, ...], plan: Plan, needs: tuple[bool, bool, bool]
) -> tuple[Array, tuple[Array | None, ...]]:
    """``rows[i] * loss_g[i]`` as ``(G, B)``, then the gradients that are needed, all in the dtype of ``rows``.

    ``arrays`` are anchors, candidates and temperatures; ``fixed`` has no gradient: what is excluded, the candidate of
    every anchor, and ``rows``.
    """
    work = partial(_sweep, plan=plan, needs=needs)
    placed = explicit_shardings(arrays)
    if placed is not None:
        per_row = NamedSharding(placed[0].mesh, PartitionSpec(None, *placed[0].spec[:1]))
        wanted = tuple(sharding if needed else None for sharding, needed in zip(placed, needs, strict=True))
        work = jax.sharding.auto_axes(work, out_sharding=(per_row, wanted))
    return work(*arrays, *fixed)


@partial(jax.jit, static_argnames=("plan", "needs"))
def _sweep(
    a: Array,
    c: Array,
    temperatures: Array,
    exclude: Array | None,
    own: Array,
    factors: Array,
    *,
    plan: Plan,
    needs: tuple[bool, bool, bool],
) -> tuple[Array, tuple[Array | None, ...]]:
    wide, count = factors.dtype, a.shape[0]
    narrow = jnp.promote_types(a.dtype, c.dtype)
    anchors, candidates = (side_of(x.astype(narrow), plan.nesting, plan.cosine, plan.on_host, wide) for x in (a, c))
    if exclude is not None and count:  # an anchor without its own positive has no loss
        factors = jnp.where(jnp.take_along_axis(exclude, own[:, None], 1)[:, 0], jnp.nan, factors)
    right = 1 / temperatures[:, None]
    right = right * (jnp.ones((1, c.shape[0]), wide) if candidates.inverse is None else candidates.inverse.T)
    rows, others = Rows(anchors, factors, own, exclude), Others(candidates.x, right, None, None)
    work = partial(_chunk, plan=plan, needs=needs)
    size = plan.chunk_rows
    if size is None or count <= plan.shards * size:
        products = _products(rows, others, plan)
        if plan.symmetric:
            others = _with_columns(others, _columns(rows, others, products, plan), factors)
        found = work(rows, others, products)
    else:
        found = _each_chunk(work, rows, others, plan, size)
    radial = found.radial_a
    gradients = (
        None if found.da is None else through_the_norm(found.da, anchors, radial, plan.nesting),
        None if found.dc is None else through_the_norm(found.dc, candidates, found.radial_c, plan.nesting),
        None if radial is None or not needs[2] else -radial.sum(0) / temperatures,
    )
    return found.losses.T, gradients


def _each_chunk(work: Any, rows: Rows, others: Others, plan: Plan, size: int) -> Found:
    """A chunk takes some rows of every shard, which each device has in its own memory.

    Sums over the rows of a shard stay there until the loop is over.
    """
    shards, count = plan.shards, rows.own.shape[0]
    share = count // shards
    chunks = -(-share // size)
    aside = shards > 1

    def split(x: Array) -> Array:
        x = x.reshape(shards, share, *x.shape[1:])
        if share % size:
            fill = -1 if x.dtype == rows.own.dtype and x.ndim == 2 else 0
            x = jnp.pad(x, ((0, 0), (0, chunks * size - share), *((0, 0),) * (x.ndim - 2)), constant_values=fill)
        x = jnp.moveaxis(x.reshape(shards, chunks, size, *x.shape[2:]), 1, 0)
        return x if aside else x[:, 0]

    def join(x: Array) -> Array:
        x = x if aside else x[:, None]
        x = jnp.moveaxis(x, 0, 1).reshape(shards, chunks * size, *x.shape[3:])
        return jax.lax.slice_in_dim(x, 0, share, axis=1).reshape(count, *x.shape[2:])

    parts = jax.tree.map(split, rows)
    if plan.symmetric:

        def fold(columns: Array, chunk: Rows) -> tuple[Array, None]:
            return jnp.logaddexp(columns, _columns(chunk, others, _products(chunk, others, plan), plan)), None

        start = jnp.full_like(others.right, -jnp.inf, shape=(*(shards,) * aside, *others.right.shape))
        columns, _ = jax.lax.scan(fold, start, parts)
        others = _with_columns(others, jax.nn.logsumexp(columns, 0) if aside else columns, rows.factors)

    def step(sums: Any, chunk: Rows) -> tuple[Any, Any]:
        found = work(chunk, others, _products(chunk, others, plan))
        added = jax.tree.map(jnp.add, sums, (found.dc, found.radial_c))
        return added, found._replace(dc=None, radial_c=None)

    like = jax.eval_shape(
        lambda: work(
            jax.tree.map(lambda x: x[0], parts), others, _products(jax.tree.map(lambda x: x[0], parts), others, plan)
        )
    )
    zeros = jax.tree.map(lambda x: jnp.zeros_like(others.right, shape=x.shape), (like.dc, like.radial_c))
    (dc, radial_c), found = jax.lax.scan(step, zeros, parts)
    if aside:
        dc, radial_c = jax.tree.map(lambda x: x.sum(0), (dc, radial_c))
    return jax.tree.map(join, found)._replace(dc=dc, radial_c=radial_c)


def _products(rows: Rows, others: Others, plan: Plan) -> list[Array]:
    """The Gram matrices of all levels: each is the one before and a block's product."""
    levels: list[Array] = []
    for start, stop in plan.nesting.blocks:
        block = product(rows.side.x[..., start:stop], others.x[:, start:stop].T, others.right.dtype)
        levels.append(levels[-1] + block if levels else block)
    return levels


def _similarities(g: int, gram: Array, rows: Rows, others: Others) -> tuple[Array, Array]:
    """``K_g / (|c| temperature)``, and what is compared: that divided by ``|a|``, without what is excluded."""
    x = gram * others.right[g]
    s = x if rows.side.inverse is None else x * rows.side.inverse[..., g, None]
    return x, s if rows.exclude is None else jnp.where(rows.exclude, -jnp.inf, s)


def _columns(rows: Rows, others: Others, products: list[Array], plan: Plan) -> Array:
    """The log-sum-exps ``(..., G, M)`` over these anchors of what is compared with each candidate."""
    known = (rows.own >= 0)[..., None]
    found = []
    for g, gram in enumerate(products):
        _, s = _similarities(g, gram, rows, others)
        found.append(jax.nn.logsumexp(jnp.where(known, s, -jnp.inf), -2))
    return jnp.stack(found, -2)


def _with_columns(others: Others, columns: Array, factors: Array) -> Others:
    count, fill = factors.shape[0], others.right.shape[1] - factors.shape[0]
    # Only the first of the candidates are positives.
    columns = jnp.pad(columns[:, :count], ((0, 0), (0, fill)), constant_values=jnp.inf)
    return others._replace(columns=columns, factors=jnp.pad(factors, (0, fill)))


def _chunk(rows: Rows, others: Others, products: list[Array], *, plan: Plan, needs: tuple[bool, bool, bool]) -> Found:
    """The losses of a chunk of anchors, and its part of the gradients: the largest level first."""
    wide, factors, own = others.right.dtype, rows.factors[..., None], rows.own[..., None]
    labelled = own == jnp.arange(others.x.shape[0])
    losses, radial_a, radial_c, das, dcs, suffix = [], [], [], [], [], None
    for g in reversed(range(len(products))):
        x, s = _similarities(g, products[g], rows, others)
        matching = jnp.take_along_axis(s, own, -1)
        inverse = 1 if rows.side.inverse is None else rows.side.inverse[..., g, None]
        scale = plan.nesting.weights[g] * factors
        if others.columns is None or others.factors is None:
            largest = s.max(-1, keepdims=True)
            exponentials = jnp.exp(s - largest)
            sums = exponentials.sum(-1, keepdims=True)
            # The logarithm comes last: beside a large similarity it would be rounded.
            losses.append(factors * (largest - matching + jnp.log(sums)))
            ds = exponentials * (scale * inverse / sums)
        else:
            of_rows, of_columns = jax.nn.logsumexp(s, -1, keepdims=True), others.columns[g]
            both = (of_rows - matching) + (of_columns[rows.own][..., None] - matching)
            losses.append(factors * both / 2)
            # Never above zero but in rows that fill up.
            of_column = jnp.exp(jnp.minimum(s - of_columns, 0)) * (plan.nesting.weights[g] * others.factors)
            ds = jnp.exp(s - of_rows) * scale + of_column
            ds = ds * (inverse / 2)
        if not any(needs):
            continue
        ds = ds - jnp.where(labelled, scale * inverse, 0)
        radial = x * ds
        radial_a.append(radial.sum(-1))
        radial_c.append(radial.sum(-2))
        suffix = ds * others.right[g] + (0 if suffix is None else suffix)
        start, stop = plan.nesting.blocks[g]
        a, c = (_widened(z[..., start:stop], wide) for z in (rows.side.x, others.x))
        rounded = suffix.astype(a.dtype)
        das.append(product(rounded, c, wide) if needs[0] else None)
        dcs.append(outer(rounded, a, wide) if needs[1] else None)
    # The last level came first.
    return Found(
        jnp.concatenate(losses[::-1], -1),
        tuple(das[::-1]) if needs[0] else None,
        jnp.stack(radial_a[::-1], -1) if any(needs) else None,
        tuple(dcs[::-1]) if needs[1] else None,
        jnp.stack(radial_c[::-1], -1) if needs[1] else None,
    )


def _widened(x: Array, wide: np.dtype) -> Array:
    """float16 has no room for gradients of all sizes, which norms of all sizes make."""
    return x.astype(wide) if x.dtype == jnp.float16 else x
