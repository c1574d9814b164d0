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
    """The nested loss ``sum_g w_g * reduce_i CE(logits_g[i], y_i)``, in nats.

    ``CE = (1 - s) * (lse - logit_y) + s * (lse - mean_c logit_c)``, with ``y = labels``, ``s = label_smoothing``
    and ``w_g = nesting.weights[g]``. Ignored rows count nothing; a label out of range makes its loss NaN.

    Args:
        z: ``(..., D)`` embeddings.
        head: its arrays as NumPy.
        labels: ``(...)`` integers.
        nesting: the granularities and their weights.
        label_smoothing: the share of the target that is spread evenly.
        ignore_index: the label of rows that take no part.
        reduction: ``"mean"`` over the rows in use, ``"sum"`` or ``"none"``.

    Returns:
        A :class:`mrl.NestedLoss` in float64: ``total`` ``()`` or ``(...)``, ``per_level`` ``(G,)`` or ``(G, ...)``.

    Example:
        >>> import mrl, numpy as np
        >>> head, nesting = mrl.TiedHead(np.ones((4, 2))), mrl.Nesting((1, 2), weights=(1.0, 0.5))
        >>> loss = mrl.spec.nested_cross_entropy(np.zeros((3, 2)), head, np.array([0, 1, 2]), nesting)
        >>> bool(np.isclose(loss.total, 1.5 * np.log(4)))
        True

    Source: arXiv 2205.13147, equation 1.
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
    """Gradients of ``sum(upstream * nested_cross_entropy(...).total)`` for ``z`` and the head.

    Those of :func:`nested_logits_vjp` for ``dlogits_g = upstream * w_g * (softmax_g - target) / n``, where ``target``
    is the smoothed one-hot label and ``n`` the number of rows in use under ``reduction="mean"``, else 1.

    Args:
        z, head, labels, nesting, label_smoothing, ignore_index, reduction: of :func:`nested_cross_entropy`.
        upstream: of the shape of its ``total``.

    Returns:
        ``(..., D)`` in float64, and a head of gradients.

    Example:
        >>> import mrl, numpy as np
        >>> head, nesting = mrl.TiedHead(np.zeros((2, 1))), mrl.Nesting((1,))
        >>> _, dhead = mrl.spec.nested_cross_entropy_vjp(np.ones((1, 1)), head, np.array([0]), nesting, 1.0)
        >>> dhead.weight.tolist()
        [[-0.5], [0.5]]

    Source: the derivative of arXiv 2205.13147, equation 1.
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
