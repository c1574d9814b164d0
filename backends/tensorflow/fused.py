"""The nested cross-entropy and its gradient, a chunk of rows at a time.

Computes what ``losses.nested_cross_entropy(fused=False)`` and its backward pass compute, without allocating
``(G, rows, C)``. With block g the columns ``m_{g-1}:m_g``, ``R_g`` the gradient of ``logits_g`` and
``S_g = sum_{h >= g} R_h``, a tied head needs one full-width product forward and two backward::

    logits_g = logits_{g-1} + Z_g W_g^T        dZ_g = S_g W_g        dW_g = S_g^T Z_g        db = sum_rows S_1
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, NoReturn

import tensorflow as tf
from tensorflow.python.eager import record

from mrl.heads import Head, TiedHead
from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows


class Plan(NamedTuple):
    """What is fixed before any value is seen."""

    nesting: Nesting
    tied: bool
    label_smoothing: float
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int


def fused_cross_entropy(
    z: Any,
    head: Head,
    labels: tf.Tensor,
    rows: tf.Tensor,
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """``(total, per_level)`` of ``rows[i] * CE_g[i]``, summed over the examples or not."""
    tied = isinstance(head, TiedHead)
    if tied:
        leaves = (head.weight,) if head.bias is None else (head.weight, head.bias)
    else:
        leaves = (*head.weights, *(head.biases or ()))
    leaves = tuple(tf.convert_to_tensor(leaf) for leaf in leaves)
    z = tf.reshape(z, [-1, z.shape[-1]])
    shape = tf.shape(labels)
    plan = Plan(
        nesting,
        tied,
        label_smoothing,
        summed,
        plan_chunk_rows(
            len(nesting) if tied else 1,
            labels.shape.num_elements(),
            leaves[0].shape[0],
            rows.dtype.size,
            on_host="GPU" not in z.device,
            chunk_rows=chunk_rows,
        ),
    )
    # What a tape watches now needs a gradient. Where a tape lies outside of the traced function it cannot be
    # seen, and the gradient is computed when it is asked for.
    needs = tuple(summed and record.should_record_backprop([x]) for x in (z, *leaves))
    labels, rows = tf.reshape(labels, [-1]), tf.reshape(rows, [-1])

    @tf.custom_gradient
    def call(z: tf.Tensor, *leaves: tf.Tensor) -> Any:
        losses, gradients = _sweep(z, leaves, labels, rows, plan, needs)
        per_level = tf.reduce_sum(losses, 1) if summed else losses
        levels = zip(nesting.weights, tf.unstack(per_level, len(nesting)), strict=True)
        total = tf.add_n([weight * level for weight, level in levels])

        def backward(upstream: tf.Tensor, _: tf.Tensor) -> Any:
            found = gradients
            if any(needs):
                found = [None if g is None else g * upstream for g in found]
            else:
                _, found = _sweep(z, leaves, labels, rows * upstream, plan, (True,) * (1 + len(leaves)))
            found = [None if g is None else tf.cast(g, x.dtype) for g, x in zip(found, (z, *leaves), strict=True)]
            return [None if g is None else _differentiable_once(g, upstream, z, *leaves) for g in found]

        return (total, per_level), backward

    total, per_level = call(z, *leaves)
    if not summed:
        total, per_level = tf.reshape(total, shape), tf.reshape(per_level, tf.concat([[len(nesting)], shape], 0))
    return total, per_level


@tf.custom_gradient
def _differentiable_once(gradient: tf.Tensor, *inputs: tf.Tensor) -> Any:
    """A gradient that depends on ``inputs`` in a way that is not known: asking for it is an error, not zero."""

    def backward(upstream: tf.Tensor) -> NoReturn:
        raise TypeError(
            "nested_cross_entropy: the fused form is differentiable once, in reverse; got a second derivative "
            "or forward-mode differentiation; pass fused=False for the composed form"
        )

    return tf.identity(gradient), backward


def _sweep(
    z: tf.Tensor, leaves: tuple[tf.Tensor, ...], labels: tf.Tensor, rows: tf.Tensor, plan: Plan, needs: tuple[bool, ...]
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """``rows[i] * CE_g[i]`` as ``(G, N)``, then the gradients that are needed, all in the dtype of ``rows``."""
    z, leaves = tf.cast(z, rows.dtype), tuple(tf.cast(leaf, rows.dtype) for leaf in leaves)
    sweep = partial(_sweep_tied if plan.tied else _sweep_untied, leaves=leaves, plan=plan, needs=needs)
    if z.shape[0] is None:
        return _sweep_unknown(sweep, z, leaves, labels, rows, plan, needs)
    chunks = [slice(i, i + plan.chunk_rows) for i in range(0, max(1, z.shape[0]), plan.chunk_rows)]
    parts = [sweep(z[chunk], labels[chunk], rows[chunk]) for chunk in chunks]
    if len(parts) == 1:
        losses, dz, dleaves = parts[0]
        return losses, [dz, *dleaves]
    losses, dzs, dleaves = zip(*parts, strict=True)
    dz = tf.concat(dzs, 0) if needs[0] else None
    sums = [None if each[0] is None else tf.add_n(each) for each in zip(*dleaves, strict=True)]
    return tf.concat(losses, 1), [dz, *sums]


def _sweep_unknown(
    sweep: Any,
    z: tf.Tensor,
    leaves: tuple[tf.Tensor, ...],
    labels: tf.Tensor,
    rows: tf.Tensor,
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """The same loop in the graph, for a batch whose size is known only when it runs."""
    count = tf.shape(z)[0]
    chunks = tf.maximum(1, -(-count // plan.chunk_rows))
    size = -(-count // chunks)
    fill = chunks * size - count  # rows of weight zero that even out the last chunk
    z, labels, rows = tf.pad(z, [[0, fill], [0, 0]]), tf.pad(labels, [[0, fill]]), tf.pad(rows, [[0, fill]])
    z = tf.reshape(z, [chunks, size, z.shape[1]])
    labels, rows = tf.reshape(labels, [chunks, size]), tf.reshape(rows, [chunks, size])
    parts = tf.TensorArray(rows.dtype, chunks, infer_shape=False)
    dzs = tf.TensorArray(rows.dtype, chunks if needs[0] else 0, infer_shape=False)
    sums = [tf.zeros_like(leaf) for leaf, needed in zip(leaves, needs[1:], strict=True) if needed]

    def step(i: tf.Tensor, parts: tf.TensorArray, dzs: tf.TensorArray, *sums: tf.Tensor) -> Any:
        losses, dz, dleaves = sweep(z[i], labels[i], rows[i])
        new = (d for d in dleaves if d is not None)
        dzs = dzs if dz is None else dzs.write(i, dz)
        return i + 1, parts.write(i, losses), dzs, *(a + b for a, b in zip(sums, new, strict=True))

    _, parts, dzs, *sums = tf.while_loop(lambda i, *_: i < chunks, step, [0, parts, dzs, *sums])
    losses = tf.reshape(tf.transpose(parts.stack(), [1, 0, 2]), [len(plan.nesting), -1])[:, :count]
    dz = tf.reshape(dzs.stack(), [-1, z.shape[2]])[:count] if needs[0] else None
    found = iter(sums)
    return losses, [dz, *(next(found) if needed else None for needed in needs[1:])]


def _sweep_tied(
    z: tf.Tensor, labels: tf.Tensor, rows: tf.Tensor, *, leaves: tuple[tf.Tensor, ...], plan: Plan, needs: tuple[bool, ...]
) -> tuple[tf.Tensor, tf.Tensor | None, list[tf.Tensor | None]]:
    weight, bias = leaves if len(leaves) == 2 else (*leaves, None)
    blocks = plan.nesting.blocks
    levels = []
    for start, stop in blocks:
        block = tf.matmul(z[:, start:stop], weight[:, start:stop], transpose_b=True)
        before = levels[-1] if levels else bias
        levels.append(block if before is None else before + block)
    losses, residuals = zip(*(_residual(level, labels, rows, plan) for level in levels), strict=True)
    needs_z, needs_weight, needs_bias = (*needs, False)[:3]
    dz = dweight = dbias = None
    if any(needs):
        suffixes = []
        for w, residual in zip(reversed(plan.nesting.weights), reversed(residuals), strict=True):
            suffixes.append(w * residual + suffixes[-1] if suffixes else w * residual)
        suffixes.reverse()
    if needs_z:
        parts = [tf.matmul(s, weight[:, start:stop]) for s, (start, stop) in zip(suffixes, blocks, strict=True)]
        dz = _pad_columns(tf.concat(parts, 1), z.shape[1])
    if needs_weight:
        parts = [
            tf.matmul(s, z[:, start:stop], transpose_a=True) for s, (start, stop) in zip(suffixes, blocks, strict=True)
        ]
        dweight = _pad_columns(tf.concat(parts, 1), weight.shape[1])
    if needs_bias:
        dbias = tf.reduce_sum(suffixes[0], 0)
    return tf.stack(losses), dz, [dweight, dbias][: len(leaves)]


def _sweep_untied(
    z: tf.Tensor, labels: tf.Tensor, rows: tf.Tensor, *, leaves: tuple[tf.Tensor, ...], plan: Plan, needs: tuple[bool, ...]
) -> tuple[tf.Tensor, tf.Tensor | None, list[tf.Tensor | None]]:
    count = len(plan.nesting)
    needs_z, needs_weights, needs_biases = needs[0], needs[1 : 1 + count], needs[1 + count :]
    losses, dzs, dweights, dbiases = [], [], [], []
    for g, (m, w) in enumerate(zip(plan.nesting.dims, plan.nesting.weights, strict=True)):
        level = tf.matmul(z[:, :m], leaves[g], transpose_b=True)
        loss, residual = _residual(level + leaves[count + g] if needs_biases else level, labels, rows, plan)
        losses.append(loss)
        residual = w * residual
        dzs.append(_pad_columns(tf.matmul(residual, leaves[g]), z.shape[1]) if needs_z else None)
        dweights.append(tf.matmul(residual, z[:, :m], transpose_a=True) if needs_weights[g] else None)
        if needs_biases:
            dbiases.append(tf.reduce_sum(residual, 0) if needs_biases[g] else None)
    return tf.stack(losses), tf.add_n(dzs) if needs_z else None, [*dweights, *dbiases]


def _pad_columns(x: tf.Tensor, width: int) -> tf.Tensor:
    return x if x.shape[1] == width else tf.pad(x, [[0, 0], [0, width - x.shape[1]]])


def _residual(logits: tf.Tensor, labels: tf.Tensor, rows: tf.Tensor, plan: Plan) -> tuple[tf.Tensor, tf.Tensor]:
    """The losses of one level, and the gradients of their sum for its logits."""
    smoothing, classes = plan.label_smoothing, logits.shape[-1]
    p = tf.nn.softmax(logits)
    # The largest probability is exp(largest - lse), so that no second pass over the logits is needed for lse.
    lse = tf.reduce_max(logits, -1) - tf.math.log(tf.reduce_max(p, -1))
    picked = tf.gather(logits, labels, batch_dims=1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * tf.reduce_mean(logits, -1)
    target = tf.one_hot(labels, classes, 1 - smoothing + smoothing / classes, smoothing / classes, dtype=p.dtype)
    return (lse - picked) * rows, (p - target) * rows[:, None]
