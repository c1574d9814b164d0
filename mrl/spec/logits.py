"""Logits of every granularity of a head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting

Float = NDArray[np.float64]


@np.errstate(all="ignore")
def nested_logits(z: ArrayLike, head: Head, nesting: Nesting) -> Float:
    """The logits of every granularity, ``logits[g] = z[..., :m_g] @ W_g.T + b_g``.

    Args:
        z: ``(..., D)`` embeddings.
        head: its arrays as NumPy; ``W_g`` is ``head.weight[:, :m_g]`` or ``head.weights[g]``.
        nesting: the granularities ``m_g``.

    Returns:
        ``(G, ..., C)`` in float64.

    Example:
        >>> import mrl
        >>> mrl.spec.nested_logits([[1.0, 10.0]], mrl.TiedHead([[1.0, 1.0]]), mrl.Nesting((1, 2))).tolist()
        [[[1.0]], [[11.0]]]

    Source: arXiv 2205.13147, section 3, equation 1 (MRL) and its weight-tied form (MRL-E).
    """
    z = np.asarray(z, np.float64)
    return np.stack([_affine(z[..., :m], weight, bias) for m, weight, bias in classifiers(head, nesting)])


@np.errstate(all="ignore")
def nested_logits_vjp(z: ArrayLike, head: Head, nesting: Nesting, upstream: ArrayLike) -> tuple[Float, Head]:
    """Gradients of ``sum(upstream * nested_logits(z, head, nesting))`` for ``z`` and the head.

    ``dz[..., :m_g] += u_g @ W_g``, ``dW_g = u_g.T @ z[..., :m_g]`` and ``db_g = sum_rows u_g`` with
    ``u = upstream``; a tied head adds up what its levels give.

    Args:
        z: ``(..., D)`` embeddings.
        head: its arrays as NumPy.
        nesting: the granularities ``m_g``.
        upstream: ``(G, ..., C)``.

    Returns:
        ``(..., D)`` in float64, and a head of gradients.

    Example:
        >>> import mrl
        >>> dz, dhead = mrl.spec.nested_logits_vjp(
        ...     [[1.0, 10.0]], mrl.TiedHead([[2.0, 3.0]]), mrl.Nesting((1, 2)), [[[1.0]], [[1.0]]]
        ... )
        >>> dz.tolist(), dhead.weight.tolist()
        ([[4.0, 3.0]], [[2.0, 10.0]])

    Source: the derivative of :func:`nested_logits`.
    """
    z = np.asarray(z, np.float64)
    upstream = np.asarray(upstream, np.float64)
    dz = np.zeros_like(z)
    weights, biases = [], []
    for (m, weight, bias), u in zip(classifiers(head, nesting), upstream, strict=True):
        dz[..., :m] += u @ weight
        rows = u.reshape(-1, u.shape[-1])
        weights.append(rows.T @ z[..., :m].reshape(-1, m))
        biases.append(None if bias is None else rows.sum(axis=0))
    return dz, _collect(head, weights, biases)


def classifiers(head: Head, nesting: Nesting) -> Iterator[tuple[int, Float, Float | None]]:
    """``(m_g, W_g, b_g)`` of each granularity, in float64."""
    for g, m in enumerate(nesting.dims):
        if isinstance(head, TiedHead):
            weight, bias = np.asarray(head.weight)[:, :m], head.bias
        else:
            weight, bias = head.weights[g], None if head.biases is None else head.biases[g]
        yield m, np.asarray(weight, np.float64), None if bias is None else np.asarray(bias, np.float64)


def _affine(x: Float, weight: Float, bias: Float | None) -> Float:
    product: Float = x @ weight.T
    return product if bias is None else product + bias


def _collect(head: Head, weights: list[Float], biases: list[Float | None]) -> Head:
    if isinstance(head, NestedHead):
        return NestedHead(tuple(weights), None if head.biases is None else tuple(biases))
    tied = np.zeros(np.shape(head.weight))
    for gradient in weights:
        tied[:, : gradient.shape[1]] += gradient
    return TiedHead(tied, None if head.bias is None else np.sum([bias for bias in biases if bias is not None], axis=0))
