"""Scores of rows for queries, and the norms that they take."""

from __future__ import annotations

import numpy as np

RANGE = {4: (2.0**40, 2.0**80), 8: (2.0**500, 2.0**700)}
"""Entries past the first number, or below its reciprocal, are scaled by the second before they are squared."""


def complete(
    scores: np.ndarray,
    x: np.ndarray,
    lengths: np.ndarray | None,
    offsets: np.ndarray | None,
    metric: str,
    normalized: bool,
) -> None:
    """From products to scores, in place: over the norms of rows, or ``2 q . x - ||x||^2 - ||q||^2``."""
    if metric == "cosine" and not normalized and lengths is not None:
        over_norms(scores, lengths)
    elif offsets is not None:
        scores -= np.einsum("nd,nd->n", x, x) if lengths is None else lengths
        scores -= offsets[:, None]
        np.minimum(scores, 0, out=scores)


def over_norms(scores: np.ndarray, norms: np.ndarray) -> None:
    scores /= np.where(norms <= 1e-12, np.inf, norms)  # so that the NaN of a query stays


def row_norms(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The norms of rows; and ``x`` times a power of two a row that keeps squares in range, with its norms."""
    limit, power = RANGE[x.dtype.itemsize]
    squares = np.einsum("nd,nd->n", x, x)
    if ((squares < limit) & (squares > 1 / limit)).all():
        norms = np.sqrt(squares)
        return norms, x, norms
    largest = np.abs(x).max(-1, initial=0)
    scale = np.where(largest > limit, 1 / power, np.where(largest < 1 / limit, power, 1)).astype(x.dtype)
    scaled = x * scale[:, None]
    norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))
    return norms / scale, scaled, norms


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Every row over its norm, and zeros where that is at most 1e-12."""
    norms, scaled, divisor = row_norms(x)
    small = norms <= 1e-12
    if not small.any():
        return scaled / divisor[:, None]
    return np.where(small[:, None], 0, scaled / np.where(small, 1, divisor)[:, None])
