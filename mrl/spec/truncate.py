"""Prefixes of an embedding, and their L2 normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

SMALLEST_NORM = 1e-12
"""A prefix whose norm is at most this becomes zero, with a zero gradient."""


def truncate(z: ArrayLike, dim: int, *, normalize: bool = True) -> Float:
    """``x = z[..., :dim]``, or ``x / ||x||``; zeros where ``||x|| <= 1e-12``."""
    x = np.asarray(z, np.float64)[..., :dim]
    if not normalize:
        return np.array(x)
    norm = _norm(x)
    tiny = norm <= SMALLEST_NORM
    prefix: Float = np.where(tiny, 0.0, x / np.where(tiny, 1.0, norm))
    return prefix


def truncate_vjp(z: ArrayLike, dim: int, upstream: ArrayLike, *, normalize: bool = True) -> Float:
    """``dx = (u - y (y . u)) / ||x||`` with ``y = x / ||x||``; zero beyond ``dim`` and for a zero prefix."""
    full = np.asarray(z, np.float64)
    u = np.asarray(upstream, np.float64)
    gradient = np.zeros_like(full)
    if not normalize:
        gradient[..., :dim] = u
        return gradient
    norm = _norm(full[..., :dim])
    tiny = norm <= SMALLEST_NORM
    y = truncate(full, dim)
    radial = np.sum(y * u, axis=-1, keepdims=True)
    gradient[..., :dim] = np.where(tiny, 0.0, (u - y * radial) / np.where(tiny, 1.0, norm))
    return gradient


def _norm(x: Float) -> Float:
    # Scaling by the largest entry keeps the squares of huge and tiny float64 entries in range.
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(scale * np.sqrt(np.sum((x / scale) ** 2, axis=-1, keepdims=True)))
