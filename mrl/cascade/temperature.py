"""Temperatures: what to divide the logits of each level by, so that confidences are frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import backend_of
from ..heads import Array
from .outcomes import CHUNK_BYTES, Float, host_examples

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures end here: one right about everything it is given would want none at all."""

LOWEST = 1e-38
"""Probabilities below this count as this: a zero has no logarithm."""

STEPS = 100


def fit_temperatures(logits: Array, labels: Array) -> tuple[float, ...]:
    """For each level, the temperature under which held-out labels are likeliest.

    ``T_g = argmin_T mean_i CE(logits[g, i] / T, labels[i])``, in nats. In ``1 / T`` that is convex; its derivative
    is brought to zero by Newton's method within a bracket, in float64. Answers do not change, confidences do, and
    with them what one threshold means at different levels.

    Args:
        logits: ``(G, ..., C)`` floating, of any framework, finite or minus infinity.
        labels: ``(...)`` integer class indices in ``[0, C)``, of the same framework.

    Returns:
        ``G`` floats in [0.01, 100], for :class:`CascadePolicy` and :func:`fit_cascade`.

    Raises:
        TypeError: arrays of two frameworks, traced arrays, or arguments of a wrong kind.
        ValueError: shapes that do not fit, labels out of range, no example, or NaN among the logits.

    Example:
        >>> import mrl, numpy as np
        >>> logits = np.log([[[0.9, 0.1]] * 4])  # 90 % sure, and right 3 times in 4
        >>> mrl.fit_temperatures(logits, np.array([0, 0, 0, 1]))
        (2.0,)

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    backend_of({"logits": logits})
    shape = checks.shape_of("logits", logits)
    levels = shape[0] if shape else None
    if not levels:
        raise ValueError(f"logits: expected shape (G, ..., C) with at least one level, got {tuple(shape)}; stack them")
    values, y = host_examples("logits", logits, labels, levels)
    return tuple(level_temperature(values[g], y, g) for g in range(levels))


def temperatures_of(values: Any, labels: NDArray[np.int64], *, logits: bool) -> tuple[float, ...]:
    """:func:`fit_temperatures` of arrays on the host, also of probabilities."""
    if logits:
        return tuple(level_temperature(level, labels, g) for g, level in enumerate(values))
    return tuple(
        level_temperature(np.log(np.maximum(level.astype(np.float64), LOWEST)), labels, g)
        for g, level in enumerate(values)
    )


def level_temperature(values: Any, labels: NDArray[np.int64], g: int) -> float:
    low, high, scale = 1 / HOTTEST, 1 / COLDEST, 1.0
    before = high - low
    for _ in range(STEPS):
        slope, curvature = _derivatives(values, labels, scale, g)
        flat = slope == 0 and curvature == 0
        if flat and scale == 1:  # no temperature changes anything
            return 1.0
        # Past the first step, flat is where the loss has vanished: colder is no worse.
        low, high = (scale, high) if slope < 0 or flat else (low, scale)
        newton = scale - slope / curvature if curvature > 0 else scale
        fast = low <= newton <= high and abs(newton - scale) <= before / 2
        following = newton if fast and not flat else float(np.sqrt(low * high))
        before = abs(following - scale)
        scale = following
        if before <= 1e-13 * scale or high - low <= 1e-13 * scale:
            break
    # The ends of the bracket are only approached.
    ends = [end for end in (1 / HOTTEST, 1 / COLDEST) if abs(scale - end) <= 1e-9 * end]
    return float(round(1 / (ends[0] if ends else scale), 12))


def _derivatives(values: Any, labels: NDArray[np.int64], scale: float, g: int) -> tuple[float, float]:
    """First and second derivative in ``scale`` of the mean cross-entropy of ``scale * values``."""
    slope, curvature = 0.0, 0.0
    chunk = max(1, CHUNK_BYTES // (8 * values.shape[-1]))
    for i in range(0, len(labels), chunk):
        part: Float = values[i : i + chunk].astype(np.float64)
        largest = part.max(-1, keepdims=True)
        if not np.isfinite(largest).all():
            raise ValueError(
                f"logits: expected numbers below infinity in every row, got others at level {g}; leave those rows out"
            )
        # Minus infinity has no weight; made finite, its product with that is zero too.
        part = np.maximum(part - largest, -1e30)
        weight = np.exp(scale * part)
        weight /= weight.sum(-1, keepdims=True)
        mean = (weight * part).sum(-1)
        slope += float((mean - part[np.arange(len(part)), labels[i : i + chunk]]).sum())
        curvature += float((weight * np.square(part - mean[:, None])).sum())
    return slope / len(labels), curvature / len(labels)
