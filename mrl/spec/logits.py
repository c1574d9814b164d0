"""Logits of every granularity of a head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting

Float = NDArray[np.float64]


def nested_logits(z: ArrayLike, head: Head, nesting: Nesting) -> Float:
    """``logits[g] = z[..., :m_g] @ W_g.T + b_g``, shape ``(G, ..., C)``."""
    z = np.asarray(z, np.float64)
    return np.stack([_affine(z[..., :m], weight, bias) for m, weight, bias in classifiers(head, nesting)])


def nested_logits_vjp(z: ArrayLike, head: Head, nesting: Nesting, upstream: ArrayLike) -> tuple[Float, Head]:
    """Gradients for ``z`` and the head; ``upstream`` has the shape of the logits, ``(G, ..., C)``."""
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
