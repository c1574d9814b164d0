"""A small encoder as plain arrays: its start, its values in float64, and how far float32 may be from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import spec
from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting
from ..testing.bounds import gamma
from ..testing.problems import UNIT_ROUNDOFF, Float


class Encoder(NamedTuple):
    """``weights[i]`` (out, in) and ``biases[i]`` (out,); a ReLU between layers, none after the last."""

    weights: tuple[Any, ...]
    biases: tuple[Any, ...]


def init_encoder(sizes: Sequence[int], seed: int) -> Encoder:
    """Float32 NumPy arrays, drawn like a fresh ``torch.nn.Linear``'s."""
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for fan_in, fan_out in pairwise(sizes):
        bound = fan_in**-0.5
        weights.append(rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32))
        biases.append(rng.uniform(-bound, bound, fan_out).astype(np.float32))
    return Encoder(tuple(weights), tuple(biases))


def embed(encoder: Encoder, images: NDArray[Any]) -> Float:
    """The embeddings in float64."""
    return embed_with_bound(encoder, images)[0]


def embed_with_bound(encoder: Encoder, images: NDArray[Any]) -> tuple[Float, Float]:
    """The embeddings in float64, and a bound for the error of computing them in float32.

    A layer of ``n`` inputs that are off by ``e`` gives ``|W| e + gamma(n + 2) (|W| (|x| + e) + |b|)``, for any
    order of summation; a ReLU enlarges no error. Source: Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd edition, section 3.1.
    """
    u = UNIT_ROUNDOFF["float32"]
    x = np.asarray(images, np.float64)
    error = np.zeros_like(x)
    for i, (weight, bias) in enumerate(zip(encoder.weights, encoder.biases, strict=True)):
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        size = (np.abs(x) + error) @ np.abs(weight).T + np.abs(bias)
        error = error @ np.abs(weight).T + gamma(weight.shape[1] + 2, u) * size
        x = x @ weight.T + bias
        if i + 1 < len(encoder.weights):
            x = np.maximum(x, 0)
    return x, error


def logits_with_bound(encoder: Encoder, head: Head, images: NDArray[Any], nesting: Nesting) -> tuple[Float, Float]:
    """The logits of encoder and head in float64, ``(G, N, C)``, and a bound for their error in float32.

    With embeddings off by ``e`` that is ``|W_g| e + gamma(m_g + G + 2) (|W_g| (|z| + e) + |b_g|)``: the bound of
    :mod:`mrl.testing.bounds` for the logits, beside what comes in from the encoder.
    """
    u = UNIT_ROUNDOFF["float32"]
    z, error = embed_with_bound(encoder, images)
    if isinstance(head, TiedHead):
        size: Head = TiedHead(np.abs(head.weight), None if head.bias is None else np.abs(head.bias))
        linear: Head = TiedHead(np.abs(head.weight))
    else:
        biases = None if head.biases is None else tuple(np.abs(bias) for bias in head.biases)
        size = NestedHead(tuple(np.abs(weight) for weight in head.weights), biases)
        linear = NestedHead(size.weights)
    rounding = np.array([gamma(m + len(nesting) + 2, u) for m in nesting.dims])[:, None, None]
    bound = spec.nested_logits(error, linear, nesting)
    bound = bound + rounding * spec.nested_logits(np.abs(z) + error, size, nesting)
    return spec.nested_logits(z, head, nesting), bound
