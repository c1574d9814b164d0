"""The loop over chunks of rows, the products and the element-wise work of the fused nested cross-entropy."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from mrl.nesting import Nesting

from .targets import dense_targets, times


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int


class Target(NamedTuple):
    """What a chunk's rows are measured against."""

    labels: tf.Tensor
    shares: tf.Tensor | None  # of every class; of labels, only where a gradient is wanted
    total: tf.Tensor | None  # the sum of a row's shares, where it need not be one


def sweep(
    z: tf.Tensor,
    leaves: tuple[tf.Tensor, ...],
    labels: tf.Tensor,
    rows: tf.Tensor,
    class_weight: tf.Tensor | None,
    scales: list[Any],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    z, leaves = tf.cast(z, rows.dtype), tuple(tf.cast(leaf, rows.dtype) for leaf in leaves)
    if plan.tied:  # a slice is a copy: one before the loop, and none in it
        cut = [leaves[0][:, start:stop] for start, stop in plan.nesting.blocks]
        work = partial(_sweep_tied, weights=cut, bias=leaves[1] if len(leaves) == 2 else None)
    else:
        work = partial(_sweep_untied, leaves=leaves)
    work = partial(work, class_weight=class_weight, scales=scales, plan=plan, needs=needs)
    if z.shape[0] is not None and z.shape[0] <= plan.chunk_rows:
        losses, dz, parts = work(z, labels, rows)
    else:
        losses, dz, parts = _sweep_chunks(work, z, leaves, labels, rows, plan, needs)
    pairs = zip(parts, leaves, strict=True)
    return losses, [dz, *(side_by_side(x, leaf.shape[1]) if isinstance(x, list) else x for x, leaf in pairs)]


def _sweep_chunks(
    work: Any,
    z: tf.Tensor,
    leaves: tuple[tf.Tensor, ...],
    labels: tf.Tensor,
    rows: tf.Tensor,
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[tf.Tensor, tf.Tensor | None, list[Any]]:
    """One chunk after the other, in a loop of the graph: none waits in memory for the others."""
    known = z.shape[0] is not None
    count = z.shape[0] if known else tf.shape(z)[0]
    chunks = -(-count // plan.chunk_rows)
    chunks = chunks if known else tf.maximum(1, chunks)
    size = -(-count // chunks)
    fill = chunks * size - count  # rows of weight zero that even out the last chunk
    uneven, soft = not known or fill, labels.dtype.is_floating
    if uneven:  # a copy, even of no rows
        z, rows = tf.pad(z, [[0, fill], [0, 0]]), tf.pad(rows, [[0, fill]])
    z, rows = tf.reshape(z, [chunks, size, z.shape[1]]), tf.reshape(rows, [chunks, size])
    if not soft:
        labels = tf.reshape(tf.pad(labels, [[0, fill]]) if uneven else labels, [chunks, size])
    elif not uneven:
        labels = tf.reshape(labels, [chunks, size, labels.shape[1]])
    all_losses = tf.TensorArray(rows.dtype, chunks, infer_shape=False)
    dzs = tf.TensorArray(rows.dtype, chunks if needs[0] else 0, infer_shape=False)
    # A zero that is not folded: constants as large as the table would stay in memory for as long as the function.
    zero = tf.raw_ops.PlaceholderWithDefault(input=tf.zeros([], rows.dtype), shape=[])
    zeros = list[Any]()
    for leaf, needed in zip(leaves, needs[1:], strict=True):
        if needed and plan.tied and not zeros:  # the weight, whose blocks are summed by themselves
            zeros.append([tf.fill([leaf.shape[0], stop - start], zero) for start, stop in plan.nesting.blocks])
        else:
            zeros.append(tf.fill(leaf.shape, zero) if needed else None)

    def step(i: tf.Tensor, all_losses: tf.TensorArray, dzs: tf.TensorArray, *sums: tf.Tensor) -> Any:
        if soft and uneven:  # of such labels no more than a chunk is copied
            own = tf.gather(labels, tf.minimum(i * size + tf.range(size), count - 1))
        else:
            own = labels[i]
        losses, dz, parts = work(z[i], own, rows[i])
        dzs = dzs if dz is None else dzs.write(i, dz)
        return i + 1, all_losses.write(i, losses), dzs, *(a + b for a, b in zip(sums, _flatten(parts), strict=True))

    state = [0, all_losses, dzs, *_flatten(zeros)]
    _, all_losses, dzs, *sums = tf.while_loop(lambda i, *_: i < chunks, step, state, parallel_iterations=1)
    losses = tf.reshape(tf.transpose(all_losses.stack(), [1, 0, 2]), [len(plan.nesting), -1])[:, :count]
    dz = tf.reshape(dzs.stack(), [-1, z.shape[2]])[:count] if needs[0] else None
    found = iter(sums)
    return (
        losses,
        dz,
        [None if x is None else [next(found) for _ in x] if isinstance(x, list) else next(found) for x in zeros],
    )


def _flatten(parts: list[Any]) -> list[tf.Tensor]:
    lists = [part if isinstance(part, list) else [part] for part in parts]
    return [x for xs in lists for x in xs if x is not None]


def side_by_side(parts: list[tf.Tensor], width: int) -> tf.Tensor:
    """Blocks of columns as one matrix, zero in the columns that no level has."""
    x = tf.concat(parts, 1)
    return x if x.shape[1] == width else tf.pad(x, [[0, 0], [0, width - x.shape[1]]])


def _sweep_tied(
    z: tf.Tensor,
    labels: tf.Tensor,
    rows: tf.Tensor,
    *,
    weights: list[tf.Tensor],
    bias: tf.Tensor | None,
    class_weight: tf.Tensor | None,
    scales: list[Any],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[tf.Tensor, tf.Tensor | None, list[Any]]:
    columns = [z[:, start:stop] for start, stop in plan.nesting.blocks]
    levels = list[tf.Tensor]()
    for x, weight in zip(columns, weights, strict=True):
        block = tf.matmul(x, weight, transpose_b=True)
        before = levels[-1] if levels else bias
        levels.append(block if before is None else before + block)
    target = _target(labels, class_weight, levels[0], plan, needs)
    pairs = [_residual(level, target, rows, scale, plan) for level, scale in zip(levels, scales, strict=True)]
    losses, residuals = zip(*pairs, strict=True)
    needs_z, needs_weight, needs_bias = (*needs, False)[:3]
    dz = dweight = dbias = None
    if any(needs):
        suffixes = list[tf.Tensor]()
        for residual in reversed(residuals):
            suffixes.append(residual + suffixes[-1] if suffixes else residual)
        suffixes.reverse()
    if needs_z:
        parts = [tf.matmul(s, weight) for s, weight in zip(suffixes, weights, strict=True)]
        dz = side_by_side(parts, z.shape[1])
    if needs_weight:
        dweight = list[tf.Tensor]()
        for s, x in zip(suffixes, columns, strict=True):
            with tf.control_dependencies(dweight[-1:]):  # one at a time, so that each is added before the next is made
                dweight.append(tf.matmul(s, x, transpose_a=True))
    if needs_bias:
        dbias = tf.reduce_sum(suffixes[0], 0)
    return tf.stack(losses), dz, [dweight] if bias is None else [dweight, dbias]


def _sweep_untied(
    z: tf.Tensor,
    labels: tf.Tensor,
    rows: tf.Tensor,
    *,
    leaves: tuple[tf.Tensor, ...],
    class_weight: tf.Tensor | None,
    scales: list[Any],
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[tf.Tensor, tf.Tensor | None, list[tf.Tensor | None]]:
    count = len(plan.nesting)
    needs_z, needs_weights, needs_biases = needs[0], needs[1 : 1 + count], needs[1 + count :]
    losses, dzs, dweights, dbiases, target = [], [], [], [], None
    for g, (m, scale) in enumerate(zip(plan.nesting.dims, scales, strict=True)):
        level = tf.matmul(z[:, :m], leaves[g], transpose_b=True)
        level = level + leaves[count + g] if needs_biases else level
        target = _target(labels, class_weight, level, plan, needs) if target is None else target
        loss, residual = _residual(level, target, rows, scale, plan)
        losses.append(loss)
        dzs.append(side_by_side([tf.matmul(residual, leaves[g])], z.shape[1]) if needs_z else None)
        dweights.append(tf.matmul(residual, z[:, :m], transpose_a=True) if needs_weights[g] else None)
        if needs_biases:
            dbiases.append(tf.reduce_sum(residual, 0) if needs_biases[g] else None)
    return tf.stack(losses), tf.add_n(dzs) if needs_z else None, [*dweights, *dbiases]


def _target(
    labels: tf.Tensor, class_weight: tf.Tensor | None, logits: tf.Tensor, plan: Plan, needs: tuple[bool, ...]
) -> Target:
    """Once a chunk, for all levels."""
    shares = total = None
    dense = labels.dtype.is_floating or class_weight is not None
    if dense or any(needs):
        shares = dense_targets(labels, logits.shape[-1], plan.label_smoothing, class_weight, logits.dtype)
    if dense:
        total = tf.reduce_sum(shares, -1, keepdims=True)
    return Target(labels, shares, total)


def _residual(
    logits: tf.Tensor, target: Target, rows: tf.Tensor, scale: Any, plan: Plan
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The losses of one level, and the gradients of their sum, times ``scale``, for its logits."""
    smoothing, shares, total = plan.label_smoothing, target.shares, target.total
    p, largest = tf.nn.softmax(logits), tf.reduce_max(logits, -1, keepdims=True)
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse; its
    # logarithm comes last, because beside a large logit it would be rounded.
    above = -tf.math.log(tf.reduce_max(p, -1, keepdims=True))
    # A share of nothing is left out: of a class that a logit of -inf excludes it would be NaN.
    if total is not None:
        losses = tf.reduce_sum(tf.math.multiply_no_nan(largest - logits, shares), -1) + (total * above)[:, 0]
    else:
        picked = tf.gather(logits, target.labels, batch_dims=1) if smoothing < 1 else None
        if smoothing:
            mean = tf.reduce_mean(logits, -1)
            picked = mean if picked is None else (1 - smoothing) * picked + smoothing * mean
        losses = largest[:, 0] - picked + above[:, 0]
    # An ignored row's loss is infinite where the class 0 that stands in for its label is excluded by a logit of -inf.
    losses = tf.math.multiply_no_nan(losses, rows)
    if shares is None:
        return losses, None
    difference = p - shares if total is None else p * total - shares
    factors = times(rows, scale)[:, None]
    return losses, times(difference, factors) if tf.is_tensor(scale) else difference * factors
