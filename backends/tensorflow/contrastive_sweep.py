"""The loop over chunks of anchors, the products and the element-wise work of the fused contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mrl.nesting import Nesting

from .arrays import in_xla, nan_where
from .contrastive_sides import side_of, through_the_norm
from .sweep import side_by_side


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    cosine: bool
    symmetric: bool
    chunk_rows: int


class Fixed(NamedTuple):
    """What has no gradient."""

    exclude: tf.Tensor | None
    own: tf.Tensor  # the candidate of every anchor
    factors: tf.Tensor  # of the losses


class Rows(NamedTuple):
    """What there is of every anchor."""

    x: tf.Tensor
    inverse: tf.Tensor | None
    factors: tf.Tensor  # of the losses
    own: tf.Tensor  # its candidate; -1 in rows that fill up a chunk
    exclude: tf.Tensor | None


class Others(NamedTuple):
    """What all anchors share."""

    blocks: list[tf.Tensor]  # the candidates, cut into the columns that each level adds
    right: tf.Tensor  # (G, M), what products are multiplied by: 1 / (norm * temperature)
    columns: tf.Tensor | None = None  # (G, M), the log-sum-exps over all anchors, infinite of what is no positive
    factors: tf.Tensor | None = None  # (M,), of the losses of columns


class Found(NamedTuple):
    """Of a chunk, for each anchor and, in ``dc`` and ``radial_c``, for each candidate."""

    losses: tf.Tensor  # (rows, G)
    da: tf.Tensor | None
    radial_a: tf.Tensor | None  # (rows, G), of every level, the product of a prefix with its gradient as unit vectors
    dc: list[tf.Tensor] | None
    radial_c: tf.Tensor | None  # (M, G)


def sweep(
    arrays: tuple[tf.Tensor, ...], fixed: Fixed, plan: Plan, needs: tuple[bool, ...]
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """``factors[i] * loss_g[i]`` as ``(G, B)``, then the gradients that are needed."""
    a, c, temperatures = arrays
    anchors, candidates = (side_of(x, plan.nesting, plan.cosine) for x in (a, c))
    factors = fixed.factors
    if fixed.exclude is not None:  # an anchor without its own positive has no loss
        factors += nan_where(tf.gather(fixed.exclude, fixed.own, batch_dims=1), factors.dtype)
    right = 1 / temperatures[:, None]
    right *= tf.ones([1, tf.shape(c)[0]], c.dtype) if candidates.inverse is None else tf.transpose(candidates.inverse)
    rows = Rows(anchors.x, anchors.inverse, factors, fixed.own, fixed.exclude)
    # A slice is a copy: one before the loop, and none in it.
    others = Others([candidates.x[:, start:stop] for start, stop in plan.nesting.blocks], right)
    if a.shape[0] is not None and a.shape[0] <= plan.chunk_rows:
        products = _products(rows, others, plan)
        if plan.symmetric:
            columns = [_log_sum_exp(_similarities(g, gram, rows, others)[1]) for g, gram in enumerate(products)]
            others = _with_columns(others, tf.stack(columns), factors)
        found = _chunk(rows, others, products, plan, needs)
    else:
        found = _each_chunk(rows, others, plan, needs)
    da, dc, radial = found.da, found.dc, found.radial_a
    return tf.transpose(found.losses), [
        None if da is None else through_the_norm(da, anchors, radial, plan.nesting),
        None
        if dc is None
        else through_the_norm(side_by_side(dc, c.shape[1]), candidates, found.radial_c, plan.nesting),
        -tf.reduce_sum(radial, 0) / temperatures if needs[2] else None,
    ]


def _each_chunk(rows: Rows, others: Others, plan: Plan, needs: tuple[bool, ...]) -> Found:
    """One chunk after the other, in a loop of the graph: none waits in memory for the others."""
    known = rows.x.shape[0] is not None
    count = rows.x.shape[0] if known else tf.shape(rows.x)[0]
    chunks = -(-count // plan.chunk_rows)
    chunks = chunks if known else tf.maximum(1, chunks)
    size = -(-count // chunks)
    fill = chunks * size - count

    def split(x: tf.Tensor | None, value: Any = 0) -> tf.Tensor | None:
        if x is None:
            return None
        if not known or fill:
            x = tf.pad(x, [[0, fill], *[[0, 0]] * (x.shape.rank - 1)], constant_values=value)
        return tf.reshape(x, tf.concat([[chunks, size], tf.shape(x)[1:]], 0))

    # Rows that fill up the last chunk have factors of zero, and no candidate of their own.
    parts = Rows(
        split(rows.x), split(rows.inverse), split(rows.factors), split(rows.own, -1), split(rows.exclude, False)
    )
    width, levels, dtype = rows.x.shape[1], len(plan.nesting), rows.x.dtype

    def chunk(i: tf.Tensor) -> Rows:
        x = tf.ensure_shape(parts.x[i], [None, width])
        inverse = None if parts.inverse is None else tf.ensure_shape(parts.inverse[i], [None, levels])
        exclude = None if parts.exclude is None else parts.exclude[i]
        return Rows(x, inverse, parts.factors[i], parts.own[i], exclude)

    if plan.symmetric:

        def fold(i: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            own = chunk(i)
            found = []
            for g, gram in enumerate(_products(own, others, plan)):
                _, s = _similarities(g, gram, own, others)
                nothing = tf.constant(-math.inf, dtype)
                found.append(_log_sum_exp(tf.where(own.own[:, None] >= 0, s, nothing)))
            return i + 1, _log_add_exp(columns, tf.stack(found))

        start = tf.fill(tf.shape(others.right), tf.constant(-math.inf, dtype))
        _, columns = tf.while_loop(lambda i, _: i < chunks, fold, [0, start], parallel_iterations=1)
        others = _with_columns(others, tf.ensure_shape(columns, others.right.shape), rows.factors)
    # A zero that is not folded: constants as large as the candidates would stay in memory for as long as the function.
    zero = tf.raw_ops.PlaceholderWithDefault(input=tf.zeros([], dtype), shape=[])
    sums = []
    if needs[1]:
        sums = [
            *(tf.fill(tf.shape(x), zero) for x in others.blocks),
            tf.fill([tf.shape(others.right)[1], levels], zero),
        ]
    makes = [True, needs[0], any(needs)]
    arrays = [tf.TensorArray(dtype, chunks if made else 0, infer_shape=False) for made in makes]

    def step(i: tf.Tensor, *state: Any) -> Any:
        found = _chunk(chunk(i), others, _products(chunk(i), others, plan), plan, needs)
        results = zip(state[:3], found[:3], strict=True)
        written = [array if x is None else array.write(i, x) for array, x in results]
        added = [
            tf.ensure_shape(x + y, x.shape)
            for x, y in zip(state[3:], [*(found.dc or ()), found.radial_c], strict=False)
        ]
        return i + 1, *written, *added

    _, *state = tf.while_loop(lambda i, *_: i < chunks, step, [0, *arrays, *sums], parallel_iterations=1)

    def join(array: tf.TensorArray, made: bool, columns: int) -> tf.Tensor | None:
        return tf.reshape(array.stack(), [-1, columns])[:count] if made else None

    losses, da, radial_a = (
        join(array, made, columns)
        for array, made, columns in zip(state[:3], makes, (levels, width, levels), strict=True)
    )
    return Found(losses, da, radial_a, state[3:-1] if needs[1] else None, state[-1] if needs[1] else None)


def _products(rows: Rows, others: Others, plan: Plan) -> list[tf.Tensor]:
    """The Gram matrices of all levels: each is the one before and a block's product."""
    levels: list[tf.Tensor] = []
    for (start, stop), c in zip(plan.nesting.blocks, others.blocks, strict=True):
        block = tf.matmul(rows.x[:, start:stop], c, transpose_b=True)
        levels.append(levels[-1] + block if levels else block)
    return levels


def _similarities(g: int, gram: tf.Tensor, rows: Rows, others: Others) -> tuple[tf.Tensor, tf.Tensor]:
    """``K_g / (|c| temperature)``, and what is compared: that divided by ``|a|``, without what is excluded."""
    x = gram * others.right[g]
    s = x if rows.inverse is None else x * rows.inverse[:, g, None]
    return x, s if rows.exclude is None else tf.where(rows.exclude, tf.constant(-math.inf, s.dtype), s)


def _log_sum_exp(s: tf.Tensor) -> tf.Tensor:
    """Of columns; minus infinity where there is nothing."""
    largest = tf.reduce_max(s, 0)
    shift = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    return tf.math.log(tf.reduce_sum(tf.exp(s - shift), 0)) + shift


def _log_add_exp(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return _log_sum_exp(tf.stack([x, y]))


def _with_columns(others: Others, columns: tf.Tensor, factors: tf.Tensor) -> Others:
    """Only the first of the candidates are positives."""
    fill = tf.shape(others.right)[1] - tf.shape(factors)[0]
    positive = tf.range(tf.shape(others.right)[1]) < tf.shape(factors)[0]
    columns = tf.where(positive, columns, tf.constant(math.inf, columns.dtype))
    return others._replace(columns=columns, factors=tf.pad(factors, [[0, fill]]))


def _chunk(rows: Rows, others: Others, products: list[tf.Tensor], plan: Plan, needs: tuple[bool, ...]) -> Found:
    """The losses of a chunk of anchors, and its part of the gradients: the largest level first."""
    factors, own = rows.factors[:, None], tf.maximum(rows.own, 0)
    take_own = _in_one_pass(rows, others) if in_xla() else _in_place(rows)
    losses, radial_a, radial_c, das, dcs, suffix = [], [], [], [], [], None
    for g in reversed(range(len(products))):
        x, s = _similarities(g, products[g], rows, others)
        matching = tf.gather(s, own, batch_dims=1)[:, None]
        scale = plan.nesting.weights[g] * factors
        unit = scale if rows.inverse is None else scale * rows.inverse[:, g, None]
        largest = tf.reduce_max(s, 1, keepdims=True)
        exponentials = tf.exp(s - largest)
        total = tf.reduce_sum(exponentials, 1, keepdims=True)
        # The logarithm comes last: beside a large similarity it would be rounded.
        loss = largest - matching + tf.math.log(total)
        if others.columns is None or others.factors is None:
            ds = take_own(exponentials * (unit / total), unit)
        else:
            of_columns = others.columns[g]
            loss = (loss + (tf.gather(of_columns, own)[:, None] - matching)) / 2
            both = exponentials * (scale / total)
            # Never above zero but in rows that fill up.
            both += tf.exp(tf.minimum(s - of_columns, 0)) * (plan.nesting.weights[g] * others.factors)
            ds = take_own(both / 2 if rows.inverse is None else both * (rows.inverse[:, g, None] / 2), unit)
        losses.append(loss * factors)
        if not any(needs):
            continue
        radial = x * ds
        radial_a.append(tf.reduce_sum(radial, 1))
        radial_c.append(tf.reduce_sum(radial, 0))
        suffix = ds * others.right[g] if suffix is None else ds * others.right[g] + suffix
        start, stop = plan.nesting.blocks[g]
        das.append(tf.matmul(suffix, others.blocks[g]) if needs[0] else None)
        dcs.append(tf.matmul(suffix, rows.x[:, start:stop], transpose_a=True) if needs[1] else None)
    # The last level came first.
    return Found(
        tf.concat(losses[::-1], 1),
        side_by_side(das[::-1], rows.x.shape[1]) if needs[0] else None,
        tf.stack(radial_a[::-1], 1) if any(needs) else None,
        dcs[::-1] if needs[1] else None,
        tf.stack(radial_c[::-1], 1) if needs[1] else None,
    )


def _in_place(rows: Rows) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """``ds`` less ``unit`` at the candidate of each anchor. Rows that fill up a chunk have a ``unit`` of zero."""
    places = tf.stack([tf.range(tf.shape(rows.own)[0], dtype=rows.own.dtype), tf.maximum(rows.own, 0)], 1)
    return lambda ds, unit: tf.tensor_scatter_nd_sub(ds, places, unit[:, 0])


def _in_one_pass(rows: Rows, others: Others) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The same for a compiler, which fuses comparisons and takes single numbers one after the other."""
    labelled = tf.one_hot(rows.own, tf.shape(others.right)[1], dtype=rows.factors.dtype)
    return lambda ds, unit: ds - labelled * unit
