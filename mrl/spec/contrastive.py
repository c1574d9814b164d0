"""The nested contrastive loss of in-batch negatives: each prefix of both sides, normalised by itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..heads import NestedLoss
from ..nesting import Nesting
from .truncate import truncate, truncate_vjp

Float = NDArray[np.float64]


class ContrastiveGradients(NamedTuple):
    """Gradients of the arguments of :func:`nested_contrastive`, each in its own shape, in float64.

    Attributes:
        anchors, positives: ``(B, D)``.
        negatives: ``(..., D)``, or ``None`` if none were given.
        temperature: ``()`` or ``(G,)``.

    Example:
        >>> import mrl, numpy as np
        >>> gradients = mrl.spec.nested_contrastive_vjp(np.eye(2), np.eye(2), mrl.Nesting((2,)), 1.0)
        >>> gradients.anchors.shape, gradients.negatives, gradients.temperature.shape
        ((2, 2), None, ())

    Source: the derivatives of :func:`nested_contrastive`.
    """

    anchors: Float
    positives: Float
    negatives: Float | None
    temperature: Float


@np.errstate(all="ignore")  # infinities and NaN mean something here, and come out
def nested_contrastive(
    anchors: ArrayLike,
    positives: ArrayLike,
    nesting: Nesting,
    *,
    negatives: ArrayLike | None = None,
    temperature: ArrayLike = 0.05,
    symmetric: bool = False,
    exclude: ArrayLike | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
) -> NestedLoss:
    """The nested loss ``sum_g w_g * reduce_i (lse_j s_g[i, j] - s_g[i, i])``, in nats.

    ``s_g = a_g c_g^T / temperature_g`` with ``a_g`` the prefixes of the anchors, and ``c_g`` those of the positives and
    then of the negatives; under ``similarity="cosine"`` each is :func:`truncate`'s. ``symmetric`` is half of that and
    half of the other direction, from each positive to all anchors. A pair that ``exclude`` names has no part in either;
    where it names an anchor with its own positive, or a temperature is not a positive number, that loss is NaN. A level
    of weight zero is left out, and its loss is NaN.

    Args:
        anchors: ``(B, D)`` embeddings.
        positives: ``(B, D)``; row ``i`` belongs to anchor ``i``, and is a negative of every other.
        nesting: the granularities and their weights.
        negatives: ``(..., D)``, candidates of every anchor.
        temperature: a scalar, or ``(G,)``, one a level.
        symmetric: both directions.
        exclude: ``(B, M)`` bool, ``M`` the number of positives and negatives: true takes a candidate out.
        similarity: ``"cosine"`` or ``"dot"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A :class:`mrl.NestedLoss` in float64: ``total`` ``()`` or ``(B,)``, ``per_level`` ``(G,)`` or ``(G, B)``.

    Example:
        >>> import mrl, numpy as np
        >>> loss = mrl.spec.nested_contrastive(np.eye(2), np.eye(2), mrl.Nesting((2,)), temperature=1.0)
        >>> bool(np.isclose(loss.total, np.log(1 + np.exp(-1))))
        True

    Source: arXiv 2205.13147, section 4 (ALIGN), with the loss of arXiv 2102.05918, equations 1 and 2.
    """
    levels = _levels(anchors, positives, nesting, negatives, temperature, exclude, similarity)
    count, per_level = len(np.asarray(anchors)), []
    for level in levels:
        matching = np.diagonal(level.similarities[:, :count])
        losses = _log_sum_exp(level.similarities, 1) - matching
        if symmetric:
            losses = (losses + _log_sum_exp(level.similarities[:, :count], 0) - matching) / 2
        losses = np.where(level.wrong, np.nan, losses)
        per_level.append(losses if reduction == "none" else losses.sum() / (count or 1 if reduction == "mean" else 1))
    found = np.stack(per_level)
    weights = np.asarray(nesting.weights).reshape(-1, *(1,) * (found.ndim - 1))
    found[np.asarray(nesting.weights) == 0] = np.nan
    return NestedLoss(np.where(weights == 0, 0.0, weights * found).sum(axis=0), found)


@np.errstate(all="ignore")  # infinities and NaN mean something here, and come out
def nested_contrastive_vjp(
    anchors: ArrayLike,
    positives: ArrayLike,
    nesting: Nesting,
    upstream: ArrayLike,
    *,
    negatives: ArrayLike | None = None,
    temperature: ArrayLike = 0.05,
    symmetric: bool = False,
    exclude: ArrayLike | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
) -> ContrastiveGradients:
    """Gradients of ``sum(upstream * nested_contrastive(...).total)``.

    ``ds_g = upstream * w_g * r * (softmax_g - I)``, the softmax over each row, ``r`` what the reduction multiplies a
    loss by, and ``symmetric`` half of it and half of the same of the columns. Then ``da_g = ds_g c_g / temperature_g``,
    ``dc_g = ds_g^T a_g / temperature_g``, both through :func:`truncate_vjp`, and
    ``dtemperature_g = -sum(ds_g * s_g) / temperature_g``.

    Args:
        anchors, positives, nesting, negatives, temperature, symmetric, exclude, similarity, reduction: of
            :func:`nested_contrastive`.
        upstream: of the shape of its ``total``.

    Returns:
        :class:`ContrastiveGradients`, in float64.

    Example:
        >>> import mrl, numpy as np
        >>> x, nesting = np.array([[1.0, 0.0], [1.0, 0.0]]), mrl.Nesting((2,))
        >>> mrl.spec.nested_contrastive_vjp(x, x, nesting, 1.0, temperature=1.0).anchors.tolist()
        [[0.0, 0.0], [0.0, 0.0]]

    Source: the derivative of :func:`nested_contrastive`.
    """
    a, p = (np.asarray(x, np.float64) for x in (anchors, positives))
    count, normalize = len(a), similarity == "cosine"
    c = _candidates(p, negatives)
    scale = np.asarray(upstream, np.float64) / (count or 1 if reduction == "mean" else 1)
    scale = np.broadcast_to(scale, (count,))
    da, dc = np.zeros_like(a), np.zeros_like(c)
    temperatures = np.zeros(len(nesting))
    levels = _levels(a, p, nesting, negatives, temperature, exclude, similarity)
    for g, (dim, weight, level) in enumerate(zip(nesting.dims, nesting.weights, levels, strict=True)):
        if not weight:
            continue
        s = level.similarities
        factors = weight * np.where(level.wrong, np.nan, scale)
        ds = factors[:, None] * _less_identity(np.exp(s - _log_sum_exp(s, 1)[:, None]))
        if symmetric:
            columns = s[:, :count]
            ds[:, :count] += factors * _less_identity(np.exp(columns - _log_sum_exp(columns, 0)))
            ds /= 2
        temperatures[g] = -np.sum(np.where(ds == 0, 0.0, ds * s)) / level.temperature
        ds /= level.temperature
        da += truncate_vjp(a, dim, ds @ level.candidates, normalize=normalize)
        dc += truncate_vjp(c, dim, ds.T @ level.anchors, normalize=normalize)
    dtemperature = temperatures if np.ndim(temperature) else temperatures.sum()
    dnegatives = None if negatives is None else dc[count:].reshape(np.shape(negatives))
    return ContrastiveGradients(da, dc[:count], dnegatives, np.asarray(dtemperature))


class _Level(NamedTuple):
    anchors: Float
    candidates: Float
    similarities: Float
    temperature: float
    wrong: NDArray[np.bool_]  # of every anchor: whether its loss is no number


def _levels(
    anchors: ArrayLike,
    positives: ArrayLike,
    nesting: Nesting,
    negatives: ArrayLike | None,
    temperature: ArrayLike,
    exclude: ArrayLike | None,
    similarity: str,
) -> list[_Level]:
    candidates, levels = _candidates(positives, negatives), []
    temperatures = np.broadcast_to(np.asarray(temperature, np.float64), (len(nesting),))
    out = np.zeros((len(np.asarray(anchors)), len(candidates)), bool) if exclude is None else np.asarray(exclude)
    for dim, t in zip(nesting.dims, temperatures, strict=True):
        a, c = (truncate(x, dim, normalize=similarity == "cosine") for x in (anchors, candidates))
        wrong = np.diagonal(out) | ~(t > 0)
        levels.append(_Level(a, c, np.where(out, -np.inf, a @ c.T / t), float(t), wrong))
    return levels


def _candidates(positives: ArrayLike, negatives: ArrayLike | None) -> Float:
    p = np.asarray(positives, np.float64)
    return p if negatives is None else np.concatenate([p, np.reshape(np.asarray(negatives), (-1, p.shape[-1]))])


def _less_identity(p: Float) -> Float:
    return p - np.eye(*p.shape)


def _log_sum_exp(x: Float, axis: int) -> Float:
    largest = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    return np.asarray(np.log(np.exp(x - shift).sum(axis=axis)) + np.squeeze(shift, axis))
