"""Temperatures: what to divide the logits of each level by, so that confidences are frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import settle
from ..heads import Array
from .outcomes import CHUNK_BYTES, Float, host_examples

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures end here: one right about everything it is given would want none at all."""

CLOSE = 1e-13
"""The relative distance at which a search ends."""

FLOAT_MAX = float(np.finfo(np.float64).max)


@np.errstate(all="ignore")
def fit_temperatures(logits: Array, labels: Array) -> tuple[float, ...]:
    """For each level, the temperature under which held-out labels are likeliest.

    ``T_g = argmin_T mean_i CE(logits[g, i] / T, labels[i])``, in nats, over [0.01, 100]. In ``1 / T`` that is convex;
    its derivative is brought to zero by Newton's method within a bracket, in float64. An example whose own label is
    excluded, by a logit of minus infinity, has an infinite loss at every temperature: it tells nothing of it and is
    left out. Where nothing tells of it, because all logits that are left are equal, it is 1. Answers do not change,
    confidences do, and with them what one threshold means at different levels.

    Args:
        logits: ``(G, ..., C)`` floating, of any framework, finite or minus infinity.
        labels: ``(...)`` integer class indices in ``[0, C)``, of any framework, or a list of them.

    Returns:
        ``G`` floats in [0.01, 100], for :class:`CascadePolicy` and :func:`fit_cascade`.

    Raises:
        TypeError: traced arrays, or arguments of a wrong kind.
        ValueError: shapes that do not fit, labels out of range, no example, or NaN among the logits.

    Example:
        >>> import mrl, numpy as np
        >>> logits = np.log([[[0.9, 0.1]] * 4])  # 90 % sure, and right 3 times in 4
        >>> mrl.fit_temperatures(logits, np.array([0, 0, 0, 1]))
        (2.0,)

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    logits = settle({"logits": logits})[1]["logits"]
    shape = checks.shape_of("logits", logits)
    levels = shape[0] if shape else None
    if not levels:
        raise ValueError(f"logits: expected shape (G, ..., C) with at least one level, got {tuple(shape)}; stack them")
    values, y = host_examples("logits", logits, labels, levels)
    return temperatures_of("logits", values, y, logits=True)


def temperatures_of(name: str, values: Any, labels: NDArray[np.int64], *, logits: bool) -> tuple[float, ...]:
    """:func:`fit_temperatures` of arrays on the host, also of probabilities: there a zero is an excluded class."""
    return tuple(level_temperature(name, level, labels, g, logits=logits) for g, level in enumerate(values))


def level_temperature(name: str, values: Any, labels: NDArray[np.int64], g: int, *, logits: bool) -> float:
    parts = partial(_parts, name, values, labels, g, logits)
    unit = max(float(-_finite(gap).min(initial=0)) for gap, _ in parts())
    if unit == 0:  # no temperature changes anything
        return 1.0
    low, high, scale = 1 / HOTTEST, 1 / COLDEST, 1.0
    slope, curvature = _derivatives(parts(), low, unit)
    if slope > 0 or (slope == 0 and curvature > 0):
        return HOTTEST
    if _derivatives(parts(), high, unit)[0] <= 0:
        return COLDEST
    before = high - low
    while high - low > CLOSE * scale:
        slope, curvature = _derivatives(parts(), scale, unit)
        # All are right, and by so much that the slope has vanished: colder is no worse.
        low, high = (scale, high) if slope < 0 or curvature == 0 == slope else (low, scale)
        newton = scale - slope / curvature / unit if curvature > 0 else math.inf
        step = abs(newton - scale)
        if step <= CLOSE * scale:
            scale = newton
            break
        # A step of Newton's that is not half of the one before leads nowhere soon.
        following = newton if low < newton < high and step <= before / 2 else math.sqrt(low * high)
        before, scale = abs(following - scale), following
    return round(1 / scale, 12)


def _parts(
    name: str, values: Any, labels: NDArray[np.int64], g: int, logits: bool
) -> Iterator[tuple[Float, NDArray[np.int64]]]:
    """Logits less the largest of their row, a part at a time, and labels: of the rows that tell of a temperature."""
    chunk = max(1, CHUNK_BYTES // (8 * values.shape[-1]))
    for i in range(0, len(labels), chunk):
        part: Float = values[i : i + chunk].astype(np.float64)
        part = part if logits else np.log(np.clip(part, 0, 1))
        largest = part.max(-1, keepdims=True)
        if not np.isfinite(largest).all():
            raise ValueError(
                f"{name}: expected numbers below infinity in every row, got others at level {g}; leave those rows out"
            )
        gap = np.where(np.isneginf(part), part, np.maximum(part - largest, -FLOAT_MAX))
        y = labels[i : i + chunk]
        told = gap[np.arange(len(y)), y] > -np.inf
        yield gap[told], y[told]


def _derivatives(parts: Iterable[tuple[Float, NDArray[np.int64]]], scale: float, unit: float) -> tuple[float, float]:
    """First and second derivative in ``scale`` of the summed cross-entropy of ``scale * gaps``.

    In units of the widest gap, and of its square, where neither overflows or vanishes, whatever the scale of logits.
    """
    slope, curvature = 0.0, 0.0
    for gap, y in parts:
        weight = np.exp(scale * gap)
        weight /= weight.sum(-1, keepdims=True)
        share = _finite(gap) / unit
        mean = (weight * share).sum(-1)
        slope += float((mean - share[np.arange(len(y)), y]).sum())
        curvature += float((weight * np.square(share - mean[:, None])).sum())
    return slope, curvature


def _finite(gap: Float) -> Float:
    """Zero for minus infinity: its weight is zero, and so shall be their product."""
    return np.where(np.isneginf(gap), 0.0, gap)
