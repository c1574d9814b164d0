"""mrl on Apple's MLX: the least that a backend provides, level by level, and how MLX takes gradients."""

import mlx.core as mx
import numpy as np

import mrl
from mrl.heads import head_leaves
from mrl.testing.drivers import Call, Result, result_of


def truncate(z, dim, *, normalize):
    x = z[..., :dim]
    if not normalize:
        return x
    x = x.astype(mx.float32)
    # Powers of two keep squares in range, and change no digit.
    largest = mx.abs(x).max(-1, keepdims=True)
    scale = mx.where(largest > 2.0**62, 2.0**-96, mx.where(largest < 2.0**-62, 2.0**96, 1.0))
    squares = mx.square(x * scale).sum(-1, keepdims=True)
    tiny = squares <= mx.square(1e-12 * scale)
    return mx.where(tiny, 0.0, x * scale / mx.sqrt(mx.where(tiny, 1.0, squares))).astype(z.dtype)


def nested_logits(z, head, nesting):
    # Cast up once, and not in each level: their gradients would be added in half precision.
    z, leaves, levels = z.astype(mx.float32), [x.astype(mx.float32) for x in head_leaves(head)], []
    for g, m in enumerate(nesting.dims):
        tied = isinstance(head, mrl.TiedHead)
        weight, biases = leaves[0][:, :m] if tied else leaves[g], leaves[1:] if tied else leaves[len(nesting) :]
        logits = z[..., :m] @ weight.T
        levels.append(logits + biases[0 if tied else g] if biases else logits)
    return mx.stack(levels)


def nested_cross_entropy(
    z, head, labels, nesting, *, label_smoothing, ignore_index, reduction, fused, chunk_rows,
    sample_weight=None, class_weight=None, level_weights=None,
):  # fmt: skip
    classes, soft = head_leaves(head)[0].shape[0], mx.issubdtype(labels.dtype, mx.floating)
    used = mx.ones(z.shape[:-1], mx.bool_) if ignore_index is None else labels != ignore_index
    rows = used.astype(mx.float32) if sample_weight is None else mx.where(used, sample_weight, 0).astype(mx.float32)
    hard = None if soft else mx.where(used, labels, 0)
    target = labels.astype(mx.float32) if soft else (hard[..., None] == mx.arange(classes)).astype(mx.float32)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    counted = rows
    if class_weight is not None:
        target = target * class_weight.astype(mx.float32)
        counted = rows if soft else rows * class_weight.astype(mx.float32)[hard]
    if reduction == "mean":
        rows = mx.where(counted.sum() == 0, 0.0, rows / counted.sum())
    rows, target = mx.stop_gradient(rows), mx.stop_gradient(target)
    losses = mx.zeros((len(nesting), *z.shape[:-1]))
    if z.size:  # mx.logsumexp refuses an empty batch
        logits = nested_logits(mx.where(used[..., None], z, 0).astype(z.dtype), head, nesting)
        below = mx.logsumexp(logits, axis=-1, keepdims=True) - logits
        losses = mx.where(rows == 0, 0.0, rows * mx.where(target == 0, 0.0, target * below).sum(-1))
    per_level = losses if reduction == "none" else [level.sum() for level in losses]
    total, shown = 0.0, []
    for g, weight in enumerate(nesting.weights):
        shown.append(per_level[g] if weight else mx.full(per_level[g].shape, mx.nan))
        if weight:
            factor = weight if level_weights is None else mx.stop_gradient(weight * level_weights[g].astype(mx.float32))
            total = total + mx.where(factor == 0, 0.0, factor * per_level[g])
    return mrl.NestedLoss(total, mx.stop_gradient(mx.stack(shown)))


def from_numpy(array, *, dtype, device):
    return mx.array(np.asarray(array), None if dtype is None else getattr(mx, dtype))


def to_numpy(array, *, blocking):
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


class MlxDriver:
    name, modes, dtypes, gradients = "mlx", ("eager",), ("float16", "bfloat16", "float32"), True

    def run(self, mode: str, call: Call) -> Result:
        inputs, constants = call.made(from_numpy)

        def objective(inputs):
            outputs = call.function(inputs, constants)
            upstream = 0.0 if call.upstream is None else mx.array(call.upstream, outputs[0].dtype)
            return (upstream * outputs[0]).sum(), outputs

        if call.upstream is None:
            return result_of(objective(inputs)[1], None, lambda x: to_numpy(x, blocking=True))
        (_, outputs), gradients = mx.value_and_grad(objective)(inputs)
        gradients = call.placed(gradients[place] for place in call.differentiated)
        return result_of(outputs, gradients, lambda x: to_numpy(x, blocking=True))


def driver() -> MlxDriver:
    return MlxDriver()
