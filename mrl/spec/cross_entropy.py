"""The nested cross-entropy of arXiv 2205.13147, equation 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..heads import Head, NestedLoss, head_classes
from ..nesting import Nesting
from .logits import nested_logits, nested_logits_vjp

Float = NDArray[np.float64]


@np.errstate(all="ignore")  # infinities and NaN mean something here, and come out
def nested_cross_entropy(
    z: ArrayLike,
    head: Head,
    labels: ArrayLike,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    level_weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> NestedLoss:
    """The nested loss ``sum_g w_g * reduce_i CE(logits_g[i], y_i)``, in nats.

    ``CE = sum_c u_c (lse - logit_c)`` with ``u = v * ((1 - s) * t + s / C)``, ``t`` the one-hot label or the given
    probabilities, ``s = label_smoothing``, ``v = class_weight`` and ``w = nesting.weights * level_weights``. A class of
    which ``u_c`` is zero has no part, whatever its logit. Ignored rows count nothing; a label out of range makes its
    loss NaN, and so does a weight that is negative or NaN. A level whose weight in the nesting is zero is left out, and
    its loss, which is not computed, is NaN.

    Args:
        z: ``(..., D)`` embeddings.
        head: its arrays as NumPy.
        labels: ``(...)`` integers, or ``(..., C)`` floating probabilities.
        nesting: the granularities and their weights.
        label_smoothing: the share of the target that is spread evenly.
        ignore_index: the label of rows that take no part.
        sample_weight: ``(...)`` factors of the rows.
        class_weight: ``(C,)`` factors of the classes' shares.
        level_weights: ``(G,)`` factors of the nesting's weights.
        reduction: ``"mean"`` divides by the sum, over the rows in use, of ``sample_weight`` times, for integer labels,
            the class weight of the label; where that is zero, so is the loss. Or ``"sum"``, ``"none"``.

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
    targets, rows, used = _targets(head, labels, label_smoothing, ignore_index, sample_weight, class_weight, reduction)
    logits = nested_logits(_rows_in_use(z, used), head, nesting)
    losses = []
    for level in logits:
        terms = np.where(targets == 0, 0.0, targets * (_log_sum_exp(level)[..., None] - level))
        losses.append(np.where(rows == 0, 0.0, terms.sum(axis=-1) * rows))
    per_level = np.stack(losses)
    if reduction != "none":
        per_level = per_level.reshape(len(nesting), -1).sum(axis=-1)
    per_level[np.asarray(nesting.weights) == 0] = np.nan  # of no rows too
    scale = _level_scales(nesting, level_weights).reshape(-1, *(1,) * (per_level.ndim - 1))
    return NestedLoss(np.where(scale == 0, 0.0, scale * per_level).sum(axis=0), per_level)


@np.errstate(all="ignore")  # infinities and NaN mean something here, and come out
def nested_cross_entropy_vjp(
    z: ArrayLike,
    head: Head,
    labels: ArrayLike,
    nesting: Nesting,
    upstream: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    level_weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[Float, Head]:
    """Gradients of ``sum(upstream * nested_cross_entropy(...).total)`` for ``z`` and the head.

    Those of :func:`nested_logits_vjp` for ``dlogits_g = upstream * w_g * r * (softmax_g * sum_c u_c - u)``, where ``u``
    and ``w`` are those of :func:`nested_cross_entropy` and ``r`` is what it multiplies each row's loss by. Nothing else
    has a gradient.

    Args:
        z, head, labels, nesting: of :func:`nested_cross_entropy`.
        label_smoothing, ignore_index, sample_weight, class_weight, level_weights, reduction: of it, too.
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
    targets, rows, used = _targets(head, labels, label_smoothing, ignore_index, sample_weight, class_weight, reduction)
    z = _rows_in_use(z, used)
    logits = nested_logits(z, head, nesting)
    rows = np.where(rows == 0, 0.0, rows * np.asarray(upstream, np.float64))[..., None]
    share = targets.sum(axis=-1, keepdims=True)
    dlogits = [
        scale * rows * (np.exp(level - _log_sum_exp(level)[..., None]) * share - targets) if scale else 0.0 * level
        for scale, level in zip(_level_scales(nesting, level_weights), logits, strict=True)
    ]
    return nested_logits_vjp(z, head, nesting, np.stack(dlogits))


def _targets(
    head: Head,
    labels: ArrayLike,
    label_smoothing: float,
    ignore_index: int | None,
    sample_weight: ArrayLike | None,
    class_weight: ArrayLike | None,
    reduction: str,
) -> tuple[Float, Float, NDArray[np.bool_]]:
    """``u`` of every row, what its loss is multiplied by, and whether it is in use."""
    labels, classes = np.asarray(labels), head_classes(head)
    shares = _factors(np.ones(classes) if class_weight is None else class_weight)
    if labels.dtype.kind in "iu":
        used = np.ones(labels.shape, bool) if ignore_index is None else np.asarray(labels != ignore_index)
        inside = (labels >= 0) & (labels < classes)
        targets = np.asarray(labels[..., None] == np.arange(classes), np.float64)
        counted = shares[np.where(inside, labels, 0)]
    else:
        targets = np.asarray(labels, np.float64)
        used, counted = np.ones(targets.shape[:-1], bool), np.ones(targets.shape[:-1])
        inside = used
    factors = np.ones(used.shape) if sample_weight is None else _factors(sample_weight)
    rows = np.where(used, np.where(inside, factors, np.nan), 0.0)
    if reduction == "mean":
        whole = np.where(used, factors * counted, 0.0).sum()
        rows = rows * (0.0 if whole == 0 else 1 / whole)
    smoothed = (1 - label_smoothing) * targets + label_smoothing / classes
    return np.where(smoothed == 0, 0.0, smoothed * shares), rows, used


def _factors(weights: ArrayLike) -> Float:
    weights = np.asarray(weights, np.float64)
    return np.where(weights >= 0, weights, np.nan)


def _level_scales(nesting: Nesting, level_weights: ArrayLike | None) -> Float:
    scales = np.asarray(nesting.weights, np.float64)
    return scales if level_weights is None else np.where(scales == 0, 0.0, scales * _factors(level_weights))


def _rows_in_use(z: ArrayLike, used: NDArray[np.bool_]) -> Float:
    # An ignored row takes no part even when it holds NaN, which would survive a product with zero.
    return np.where(used[..., None], np.asarray(z, np.float64), 0.0)


def _log_sum_exp(logits: Float) -> Float:
    largest = logits.max(axis=-1, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    return np.asarray(np.log(np.exp(logits - shift).sum(axis=-1)) + shift[..., 0])
