"""Thresholds with a guarantee: how far accuracy may fall is tested, and what passes is kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_cdf
from .outcomes import Outcomes

FAMILY = (*(1 - 10.0 ** -(5 - i / 40) for i in range(200)), 0.0)
"""The shared thresholds in the order of their tests, fixed before data are seen: ``1 - t`` from 1e-5 up to 1.

Nearer to 1 float32, in which cascades run, does not tell apart what is above a threshold and what is not.
"""

BETS = np.geomspace(0.004, 0.96, 25)
"""The bets that are mixed, as shares of the largest that cannot lose more than there is."""


class Tested(NamedTuple):
    """The last threshold that passed (1 if none did), its p-value, and how many passed."""

    threshold: float
    p_value: float
    passed: int


def controlled_threshold(outcomes: Outcomes, drop: float, delta: float) -> Tested:
    """Fixed-sequence testing of ``FAMILY``: stop at the first threshold whose ``p_value`` is above ``delta``.

    Rejecting the hypothesis of a threshold that is truly bad has a probability of at most ``delta``, and the
    sequence cannot get past the first bad one without that: no correction for many tests is needed. What is tested
    is :func:`surely_right`, so that the bound also holds for the cascade as it runs, rounded.

    Source: Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test", arXiv 2110.01052 (the reduction to
    tests); Bauer, Statistics in Medicine 10 (1991) (tests in a fixed sequence).
    """
    full = outcomes.correct[-1]
    best = Tested(1.0, 0.0, 0)
    for passed, threshold in enumerate(FAMILY, 1):
        right = surely_right(outcomes, threshold)
        harm, gain = int((full & ~right).sum()), int((right & ~full).sum())
        p = p_value(harm, gain, len(full), drop)
        if p > delta:
            break
        best = Tested(threshold, p, passed)
    return best


def surely_right(outcomes: Outcomes, threshold: float) -> NDArray[np.bool_]:
    """Whether the cascade is right, ``(N,)``, on whichever side of the threshold its confidences are rounded to."""
    right: NDArray[np.bool_] = outcomes.correct[-1]
    for confidence, correct in zip(outcomes.confidence[-2::-1], outcomes.correct[-2::-1], strict=True):
        surely, maybe = (confidence > threshold + sign * outcomes.rounding for sign in (1, -1))
        right = np.where(surely, correct, right & (correct | ~maybe))
    return right


def p_value(harm: int, gain: int, n: int, drop: float) -> float:
    """Evidence against ``E L > drop`` with ``L = 1[full model right] - 1[cascade right]``, from ``n`` draws of it.

    ``harm`` examples have ``L = 1``, ``gain`` have -1, the others 0. Twice the smaller of two p-values:

    * ``P(Bin(n, drop) <= harm)``, exact, because ``E L`` is at most the probability of harm;
    * ``1 / e`` with ``e`` the mean over bets ``b`` of ``prod_i (1 + b (drop - L_i))``. No factor is negative for
      ``b`` up to ``1 / (1 - drop)`` and none has a mean above 1 under the hypothesis, so by Markov's
      inequality ``P(e >= 1 / p) <= p``. It counts the gains too, and needs no variance to be small.

    Example:
        >>> from mrl.cascade.risk import p_value
        >>> p_value(harm=0, gain=0, n=2000, drop=0.005) < 0.05 < p_value(harm=10, gain=0, n=2000, drop=0.005)
        True

    Source: Waudby-Smith and Ramdas, arXiv 2010.09686 (betting), with the mixture of bets fixed beforehand.
    """
    bets = BETS / (1 - drop)
    logs = harm * np.log1p(bets * (drop - 1)) + gain * np.log1p(bets * (drop + 1))
    logs += (n - harm - gain) * np.log1p(bets * drop)
    largest = float(logs.max())
    log_e = largest + math.log(float(np.exp(logs - largest).mean()))
    return min(1.0, 2 * min(binomial_cdf(harm, n, drop), math.exp(-max(log_e, 0.0))))
