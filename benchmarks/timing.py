"""Times of several functions taken in turns, so that a machine's moods fall on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def alternate(
    steps: Mapping[str, Callable[[], Any]], wait: Callable[[Any], None], *, repeats: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds of ``repeats`` runs of each step, one of each in turn, after ``warm_up`` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm_up + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            wait(step())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Mapping[str, list[float]], reference: str = "plain") -> dict[str, dict[str, float]]:
    """Median, quartiles and the median's ratio to that of ``reference``."""
    base = statistics.median(seconds[reference])
    rows = {}
    for name, found in seconds.items():
        low, median, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
        rows[name] = {
            "median_ms": 1e3 * median,
            "low_ms": 1e3 * low,
            "high_ms": 1e3 * high,
            "ratio": statistics.median(found) / base,
            "repeats": len(found),
        }
    return rows
