"""Binomial tails, and intervals for shares and for the difference of two on the same examples, with NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

BISECTIONS = 60  # halvings of an interval of length 1: below a float64's spacing at 1


def binomial_cdf(k: int, n: int, p: float) -> float:
    """``P(Bin(n, p) <= k)``: the terms by the ratio of neighbours, summed from the largest.

    Example:
        >>> from mrl.cascade.binomial import binomial_cdf
        >>> binomial_cdf(1, 2, 0.5)
        0.75
    """
    if k >= n or p <= 0:
        return 1.0 if k >= 0 else 0.0
    if k < 0 or p >= 1:
        return 0.0
    j = np.arange(1, k + 1)
    ratios = np.log(n - j + 1) - np.log(j) + (math.log(p) - math.log1p(-p))
    terms = n * math.log1p(-p) + np.concatenate(([0.0], np.cumsum(ratios)))
    largest = terms.max()
    with np.errstate(under="ignore"):  # a term beside a larger one may be nothing
        return min(1.0, float(np.exp(terms - largest).sum() * math.exp(largest)))


def clopper_pearson(k: int, n: int, level: float) -> tuple[float, float]:
    """The exact interval for a proportion of which ``k`` in ``n`` were seen.

    Each end is the probability at which what was seen has a tail of ``(1 - level) / 2``.

    Example:
        >>> from mrl.cascade.binomial import clopper_pearson
        >>> [round(end, 4) for end in clopper_pearson(0, 10, 0.95)]
        [0.0, 0.3085]

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - level) / 2
    # P(X >= k) = P(n - X <= n - k), and n - X has probability 1 - p.
    low = 0.0 if k == 0 else 1 - _where_cdf_is(n - k, n, tail)
    high = 1.0 if k == n else _where_cdf_is(k, n, tail)
    return low, high


def paired_difference(gains: int, losses: int, n: int, level: float) -> tuple[float, float]:
    """An interval for the difference of two shares of the same ``n`` examples, in ``gains`` of which only the first has
    what is counted, and in ``losses`` only the second.

    The differences that a score test does not reject: its variance is the likeliest under the difference tested, so
    that the interval has a length where few examples, or none, were seen to differ.

    Example:
        >>> from mrl.cascade.binomial import paired_difference
        >>> [round(end, 4) for end in paired_difference(0, 0, 100, 0.95)]
        [-0.037, 0.037]

    Source: Tango, Statistics in Medicine 17 (1998), section 2.
    """
    most = NormalDist().inv_cdf((1 + level) / 2)

    def score(difference: float) -> float:
        b = (2 * n - gains + losses) * difference - gains - losses
        c = -losses * difference * (1 - difference)
        likeliest = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)  # share of losses
        variance = n * (2 * likeliest + difference * (1 - difference))
        distance = gains - losses - n * difference
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    seen = (gains - losses) / n
    low = -1.0 if seen == -1 else _where_falls_to(most, score, -1.0, seen)
    high = 1.0 if seen == 1 else _where_falls_to(-most, score, seen, 1.0)
    return low, high


def _where_cdf_is(k: int, n: int, tail: float) -> float:
    """The ``p`` with ``P(Bin(n, p) <= k) = tail``; the left side falls as ``p`` grows."""
    return _where_falls_to(tail, lambda p: binomial_cdf(k, n, p), 0.0, 1.0)


def _where_falls_to(value: float, function: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return (low + high) / 2
