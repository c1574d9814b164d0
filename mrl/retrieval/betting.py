"""An interval for the mean of numbers between 0 and 1 that holds however they are distributed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..cascade.interval import Interval

STAKE = 0.75
"""The share of a capital that is bet at most, so that no single number ruins it."""

HALVINGS = 50


def mean_interval(values: NDArray[np.float64], level: float) -> Interval:
    """The mean of independent numbers in ``[0, 1]``, and an interval that covers theirs with probability ``level``.

    Who bets ``s_t(m)`` against ``m`` being the mean has the capital ``prod_t (1 + s_t(m) (x_t - m))`` after the last
    number, or ``prod_t (1 - s_t(m) (x_t - m))`` betting the other way. If ``m`` is the mean, either expects to stay
    where it began, and has ever had ``2 / (1 - level)`` times as much with a probability of at most
    ``(1 - level) / 2``. The interval has every ``m`` against which neither ever had. It is exact in the sense of
    Clopper and Pearson's: for any number of values it covers no less often than it says. Its length is a third to twice
    as much again as that of a normal approximation, which covers less than it says where nearly all values are 1.

    Args:
        values: ``(n,)`` in ``[0, 1]``, in an order that does not depend on them.
        level: such as 0.95.

    Example:
        >>> import numpy as np
        >>> from mrl.retrieval.betting import mean_interval
        >>> recalls = np.random.default_rng(0).choice([0.9, 1.0], 200, p=[0.25, 0.75])
        >>> found = mean_interval(recalls, 0.95)
        >>> 0.94 < found.low < found.value < found.high < 1
        True

    Source: Waudby-Smith and Ramdas, arXiv 2010.09686, "The hedged capital process", with their stakes for a fixed
    number of values.
    """
    n = len(values)
    least = math.log(2 / (1 - level))
    # What is bet on a number is known before it: from the mean and variance of those before, and one guess.
    steps = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(values)) / (steps + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (steps + 1)
    stakes = np.sqrt(2 * least / (n * np.concatenate([[0.25], variances[:-1]])))

    def refuted(m: float, x: NDArray[np.float64]) -> bool:
        """Whether the mean of ``x`` is more than ``m``, by the bets."""
        capital = np.cumsum(np.log1p(np.minimum(stakes, STAKE / m if m else math.inf) * (x - m)))
        return bool(capital.max() >= least)

    mean = float(values.mean())
    low, high = _edge(lambda m: refuted(m, values)), 1 - _edge(lambda m: refuted(m, 1 - values))
    return Interval(mean, min(low, mean), max(high, mean))


def _edge(refuted: Callable[[float], bool]) -> float:
    """The least ``m`` that is not refuted, rounded down."""
    low, high = 0.0, 1.0
    if not refuted(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
