"""From numbers to places in a figure, and where its axes are marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A mark of an axis.

    Attributes:
        place: where, in percent of the width or in pixels of the height.
        text: what is written there; empty for a mark alone.
        wide: shown only where there is room.
    """

    place: float
    text: str
    wide: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``, drawn from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, max(value, self._floor)))
        share = 0.5 if high == low else (at - low) / (high - low)
        return round(self.start + (self.stop - self.start) * share, 2)

    @property
    def _floor(self) -> float:
        return self.low if self.log else -math.inf


def across(values: Sequence[float]) -> Scale:
    """A logarithmic axis over the width, in percent, with a little room at its ends."""
    usable = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    return Scale(min(usable), max(usable), 3.0, 97.0, log=True)


def upwards(values: Sequence[float], height: float, share: bool, most: int = 6) -> tuple[Scale, list[float]]:
    """A linear axis of the height, in pixels, that begins and ends at round numbers, and these numbers.

    A share does not go below 0 or above 1. Values that are all the same get an axis about them.
    """
    usable = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(usable), max(usable)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    if high - low < 1e-4:
        low, high = low - 0.01, high + 0.01
        if share:
            low, high = (0.98, 1.0) if high > 1 else (max(low, 0.0), high)
    step = _step((high - low) / (most - 1))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    numbers = [round(i * step, 12) for i in range(first, last + 1)]
    return Scale(numbers[0], numbers[-1], height, 0.0), numbers


def size_ticks(sizes: Sequence[float], scale: Scale, room: float = 11.5, wide_room: float = 5.5) -> list[Tick]:
    """A mark at every size, and a number where one fits: the ends first, then from large to small."""
    ordered = sorted(set(sizes))
    ends = [ordered[-1], ordered[0]]
    rest = [s for s in reversed(ordered) if s not in ends]
    rest.sort(key=lambda s: math.log2(s) % 1 != 0)  # powers of two before what lies between them; the sort is stable
    narrow, wide = _fitting([*ends, *rest], scale, room, []), []
    wide = _fitting([*ends, *rest], scale, wide_room, narrow)
    return [Tick(scale(s), f"{s:g}" if s in wide else "", s not in narrow) for s in ordered]


def log_ticks(scale: Scale, text: Callable[[float], str], base: float = 10.0, most: int = 5) -> list[Tick]:
    """Marks at powers of ``base``, or between them where there would be fewer than two."""
    first, last = math.log(scale.low, base) - 1e-9, math.log(scale.high, base) + 1e-9
    powers = range(math.ceil(first), math.floor(last) + 1)
    stride = max(1, math.ceil(len(powers) / most))
    values = [base**i for i in powers if (i - powers[-1]) % stride == 0] if powers else []
    if len(values) < 2:
        values = [
            m * 10.0**i
            for i in range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
            for m in (1, 2, 5)
        ]
        values = [v for v in values if scale.low <= v <= scale.high]
    if len(values) < 2:
        values = sorted({scale.low, scale.high})
    return [Tick(scale(v), text(v)) for v in values]


def _fitting(candidates: Sequence[float], scale: Scale, room: float, taken: Sequence[float]) -> list[float]:
    kept = list(taken)
    for candidate in candidates:
        if candidate not in kept and all(abs(scale(candidate) - scale(other)) >= room for other in kept):
            kept.append(candidate)
    return kept


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= 0.8 * rough)
