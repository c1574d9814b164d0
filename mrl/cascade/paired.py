"""An exact test of how far one share of the same examples is below another, at the worst of what it does not know."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .binomial import BISECTIONS

CELLS = 64
"""Between the smallest and the largest share of changes that is believed; more of them are a little less cautious."""

KEPT = 0.02
"""Of an error of ``delta`` so much is kept for the share of changes being none of those."""


def paired_p_value(harm: int, gain: int, n: int, drop: float, delta: float) -> float:
    """Evidence against ``P(harm) - P(gain) >= drop`` from ``n`` examples, of which ``harm`` and ``gain`` were seen.

    The statistic is ``T = (harm - gain - n drop) / sqrt(max(harm + gain, n drop))``, and the p-value the largest
    probability of a ``T`` as low, over every share ``q`` of changes that Chernoff's bound leaves at a level of
    ``1 - delta / 50``, plus the ``delta / 50`` for which ``q`` is none of these. With ``q`` held, fewer harms and more
    gains make a low ``T`` likelier, so that the limit ``P(harm) = (q + drop) / 2`` is the worst; and over a cell from
    ``q`` to ``q'`` no probability is above that with ``P(harm)`` of ``q`` and ``P(gain)`` of ``q'``. So it is a bound
    and no approximation, for any ``n``.

    Args:
        harm, gain, n: counts.
        drop: in [0, 1).
        delta: the level that the p-value will be compared with, which decides how ``q`` is bounded.

    Example:
        >>> from mrl.cascade.paired import paired_p_value
        >>> paired_p_value(30, 30, 4000, 0.01, 0.05) < 0.05 < paired_p_value(70, 40, 4000, 0.01, 0.05)
        True

    Source: Berger and Boos, JASA 89 (1994) (the bounded nuisance); Tango, Statistics in Medicine 17 (1998) (the
    setting).
    """
    changes, mean = harm + gain, n * drop
    lowness = harm - gain - mean
    if lowness >= 0:  # nothing speaks against it, and what is said below of T is of negative ones
        return 1.0
    kept = KEPT * delta
    low, high = likely_shares(changes, n, kept)
    low = max(low, drop)
    if low >= high:  # so many changes as the drop takes are not believed
        return kept
    roots = np.linspace(math.sqrt(low), math.sqrt(high), CELLS + 1)
    q = roots**2
    worst = _as_low(lowness / math.sqrt(max(changes, mean)), (q[:-1] + drop) / 2, (q[1:] - drop) / 2, n, mean)
    return min(1.0, float(worst.max()) + kept)


def likely_shares(k: int, n: int, error: float) -> tuple[float, float]:
    """The ends of the shares ``q`` with ``n KL(k / n, q) <= log(2 / error)``: one that is not among them leads to ``k``
    in ``n``, or to what is further off, with a probability of ``error / 2`` at most.

    A little wider than Clopper and Pearson's interval, and found without a sum.

    Example:
        >>> from mrl.cascade.paired import likely_shares
        >>> [round(end, 3) for end in likely_shares(10, 100, 0.05)]
        [0.038, 0.2]

    Source: Hoeffding, JASA 58 (1963), theorem 1.
    """
    seen, most = k / n, math.log(2 / error) / n

    def distance(q: float) -> float:
        far = seen * math.log(seen / q) if k else 0.0
        return far + ((1 - seen) * math.log((1 - seen) / (1 - q)) if k < n else 0.0)

    ends = []
    for outside in (0.0, 1.0):
        inside = seen
        for _ in range(BISECTIONS if seen != outside else 0):
            middle = (inside + outside) / 2
            if middle in (0.0, 1.0) or distance(middle) > most:
                outside = middle
            else:
                inside = middle
        ends.append(outside)
    return ends[0], ends[1]


@np.errstate(all="ignore")  # what underflows is nothing
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
    few[0] = few[0] if mean else -1  # no change is nothing low where no drop is allowed
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
