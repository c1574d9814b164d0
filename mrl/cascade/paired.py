"""An exact test of how far one share of the same examples is below another, at the worst of what it does not know."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .binomial import clopper_pearson

CELLS = 64
"""Between the smallest and the largest share of changes that is believed; more of them are a little less cautious."""

KEPT = 0.02
"""Of an error of ``delta`` so much is kept for the share of changes being none of those."""


def paired_p_value(harm: int, gain: int, n: int, drop: float, delta: float) -> float:
    """Evidence against ``P(harm) - P(gain) >= drop`` from ``n`` examples, of which ``harm`` and ``gain`` were seen.

    The statistic is ``T = (harm - gain - n drop) / sqrt(max(harm + gain, n drop))``, and the p-value the largest
    probability of a ``T`` as low, over every share ``q`` of changes in its Clopper and Pearson interval of level
    ``1 - delta / 50``, plus the ``delta / 50`` for which ``q`` lies outside. With ``q`` held, fewer harms and more
    gains make a low ``T`` likelier, so that the limit ``P(harm) = (q + drop) / 2`` is the worst; and over a cell from
    ``q`` to ``q'`` no probability is above that with ``P(harm)`` of ``q`` and ``P(gain)`` of ``q'``. So it is a bound
    and no approximation, for any ``n``.

    Args:
        harm, gain, n: counts.
        drop: in [0, 1).
        delta: the level that the p-value will be compared with, which decides how ``q`` is bounded.

    Example:
        >>> from mrl.cascade.paired import paired_p_value
        >>> paired_p_value(30, 30, 4000, 0.01, 0.05) < 0.05 < paired_p_value(60, 40, 4000, 0.01, 0.05)
        True

    Source: Berger and Boos, JASA 89 (1994) (the bounded nuisance); Tango, Statistics in Medicine 17 (1998) (the
    setting).
    """
    changes, mean = harm + gain, n * drop
    lowness = harm - gain - mean
    if lowness >= 0:  # nothing speaks against it, and what is said below of T is of negative ones
        return 1.0
    kept = KEPT * delta
    low, high = clopper_pearson(changes, n, 1 - kept)
    low, high = max(low, drop), min(high, 1.0)
    if low >= high:
        return kept if high < drop else 1.0
    roots = np.linspace(math.sqrt(low), math.sqrt(high), CELLS + 1)
    q = roots**2
    worst = _as_low(lowness / math.sqrt(max(changes, mean)), (q[:-1] + drop) / 2, (q[1:] - drop) / 2, n, mean)
    return min(1.0, float(worst.max()) + kept)


def _as_low(
    statistic: float, harm: NDArray[np.float64], gain: NDArray[np.float64], n: int, mean: float
) -> NDArray[np.float64]:
    """``P(T <= statistic)`` for each pair of probabilities.

    Of ``D`` changes at most ``c(D)`` may be harms. ``c`` never falls, and rises by one at most, so that the
    probability of as few is carried from ``D`` to ``D + 1`` by two of its terms.
    """
    q = harm + gain
    most = float((n * q + 9 * np.sqrt(n * q) + 40).max())  # beyond it nothing is left that a float64 would notice
    d = np.arange(min(n, math.ceil(most)) + 1)
    few = np.floor((d + mean + statistic * np.sqrt(np.maximum(d, mean))) / 2 + 1e-9)
    few = np.clip(few, -1, d).astype(np.int64)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    of_harm, of_gain = np.log(harm / q)[:, None], np.log(gain / q)[:, None]

    def exactly(k: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
        j = np.maximum(k, 0)
        chance = np.exp(logs[of] - logs[j] - logs[of - j] + j * of_harm + (of - j) * of_gain)
        return np.where(k >= 0, chance, 0.0)

    lost = (harm / q)[:, None] * exactly(few[:-1], d[:-1])
    won = np.where(np.diff(few) > 0, exactly(few[1:], d[1:]), 0.0)
    start = np.full((len(q), 1), 1.0 if few[0] >= 0 else 0.0)
    as_few = np.clip(np.concatenate((start, start + np.cumsum(won - lost, 1)), 1), 0, 1)
    changes = np.exp(
        logs[n] - logs[d] - logs[n - d] + d * np.log(q)[:, None] + (n - d) * np.log1p(-np.minimum(q, 1.0))[:, None]
    )
    return np.asarray((changes * as_few).sum(1))
