"""Prefixes of an embedding, and their L2 normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

SMALLEST_NORM = 1e-12
"""A prefix whose norm is at most this becomes zero, with a zero gradient."""


@np.errstate(all="ignore")
def truncate(z: ArrayLike, dim: int, *, normalize: bool = True) -> Float:
    """The first ``dim`` dimensions: ``x = z[..., :dim]``, or ``x / ||x||``; zeros where ``||x|| <= 1e-12``.

    Args:
        z: ``(..., D)`` embeddings.
        dim: how many leading dimensions to keep.
        normalize: divide by the norm.

    Returns:
        ``(..., dim)`` in float64.

    Example:
        >>> import mrl
        >>> mrl.spec.truncate([3.0, 4.0, 12.0], 2).tolist()
        [0.6, 0.8]

    Source: arXiv 2205.13147, sections 3 and 4.1.
    """
    x = np.asarray(z, np.float64)[..., :dim]
    if not normalize:
        return np.array(x)
    norm, scale = _norm(x)
    # Scaled, because the norm of what is finite need not be.
    prefix: Float = np.where(scale * norm <= SMALLEST_NORM, 0.0, (x / scale) / np.where(norm > 0, norm, 1.0))
    return prefix


@np.errstate(all="ignore")
def truncate_vjp(z: ArrayLike, dim: int, upstream: ArrayLike, *, normalize: bool = True) -> Float:
    """The gradient of ``sum(upstream * truncate(z, dim))``: ``dx = (u - y (y . u)) / ||x||`` with ``y = x / ||x||``.

    Zero beyond ``dim``, and for a prefix that :func:`truncate` makes zero; ``dx = u`` without ``normalize``.

    Args:
        z: ``(..., D)`` embeddings.
        dim: how many leading dimensions were kept.
        upstream: ``u``, ``(..., dim)``.
        normalize: whether they were divided by their norm.

    Returns:
        ``(..., D)`` in float64.

    Example:
        >>> import mrl
        >>> mrl.spec.truncate_vjp([3.0, 4.0, 12.0], 2, [5.0, 0.0]).round(12).tolist()
        [0.64, -0.48, 0.0]

    Source: the derivative of :func:`truncate`.
    """
    full = np.asarray(z, np.float64)
    u = np.asarray(upstream, np.float64)
    gradient = np.zeros_like(full)
    if not normalize:
        gradient[..., :dim] = u
        return gradient
    norm, scale = _norm(full[..., :dim])
    y = truncate(full, dim)
    radial = np.sum(y * u, axis=-1, keepdims=True)
    tiny = scale * norm <= SMALLEST_NORM
    gradient[..., :dim] = np.where(tiny, 0.0, (u - y * radial) / scale / np.where(norm > 0, norm, 1.0))
    return gradient


def _norm(x: Float) -> tuple[Float, Float]:
    """``||x / scale||`` and ``scale``, the largest entry: squares of huge and tiny entries stay in range."""
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    return np.asarray(np.sqrt(np.sum((x / scale) ** 2, axis=-1, keepdims=True))), scale
