"""The nested cross-entropy of arXiv 2205.13147, equation 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..heads import Head, NestedLoss
from ..nesting import Nesting
from .logits import nested_logits, nested_logits_vjp

Float = NDArray[np.float64]


def nested_cross_entropy(
    z: ArrayLike,
    head: Head,
    labels: ArrayLike,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> NestedLoss:
    """``sum_g w_g * reduce_i CE(logits_g[i], y_i)`` in nats, with

    ``CE = (1 - s) * (lse - logit_y) + s * (lse - mean_c logit_c)`` and ``s`` the label smoothing.
    Ignored rows count nothing; a label out of range makes its loss NaN.
    """
    labels = np.asarray(labels)
    used = _used(labels, ignore_index)
    logits = nested_logits(_rows_in_use(z, used), head, nesting)
    outside = used & ((labels < 0) | (labels >= logits.shape[-1]))
    safe = np.where(used & ~outside, labels, 0).astype(np.int64)
    losses = []
    for level in logits:
        lse = _log_sum_exp(level)
        picked = np.take_along_axis(level, safe[..., None], axis=-1)[..., 0]
        # A share of nothing is left out, because a class that a logit of -inf excludes would make it NaN.
        loss = np.zeros_like(lse)
        if label_smoothing < 1:
            loss += (1 - label_smoothing) * (lse - picked)
        if label_smoothing > 0:
            loss += label_smoothing * (lse - level.mean(axis=-1))
        losses.append(np.where(outside, np.nan, np.where(used, loss, 0.0)))
    per_level = np.stack(losses)
    if reduction != "none":
        per_level = per_level.reshape(len(nesting), -1).sum(axis=-1)
    if reduction == "mean":
        per_level = per_level / max(1, int(used.sum()))
    return NestedLoss(np.tensordot(np.asarray(nesting.weights), per_level, axes=1), per_level)


def nested_cross_entropy_vjp(
    z: ArrayLike,
    head: Head,
    labels: ArrayLike,
    nesting: Nesting,
    upstream: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Float, Head]:
    """Gradients for ``z`` and the head: ``dlogits_g = upstream * w_g * (softmax_g - target) / n``.

    ``target`` is the smoothed one-hot label and ``n`` the number of rows in use under
    ``reduction="mean"``, else 1.
    """
    labels = np.asarray(labels)
    used = _used(labels, ignore_index)
    z = _rows_in_use(z, used)
    logits = nested_logits(z, head, nesting)
    classes = logits.shape[-1]
    rows = np.where(used, np.asarray(upstream, np.float64), 0.0)
    rows = np.where(used & ((labels < 0) | (labels >= classes)), np.nan, rows)
    if reduction == "mean":
        rows = rows / max(1, int(used.sum()))
    onehot = labels[..., None] == np.arange(classes)
    target = (1 - label_smoothing) * onehot + label_smoothing / classes
    dlogits = [
        weight * rows[..., None] * (np.exp(level - _log_sum_exp(level)[..., None]) - target)
        for weight, level in zip(nesting.weights, logits, strict=True)
    ]
    return nested_logits_vjp(z, head, nesting, np.stack(dlogits))


def _used(labels: NDArray[np.integer], ignore_index: int | None) -> NDArray[np.bool_]:
    return np.ones(labels.shape, bool) if ignore_index is None else np.asarray(labels != ignore_index)


def _rows_in_use(z: ArrayLike, used: NDArray[np.bool_]) -> Float:
    # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
    return np.where(used[..., None], np.asarray(z, np.float64), 0.0)


def _log_sum_exp(logits: Float) -> Float:
    largest = logits.max(axis=-1, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(logits - shift).sum(axis=-1)) + shift[..., 0])
