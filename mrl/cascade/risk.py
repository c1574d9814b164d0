"""Thresholds with a guarantee: how far accuracy may fall is tested, and what passes is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_cdf
from .outcomes import Outcomes
from .paired import paired_p_value
from .path import careful_to_cheap

FAMILY = (*(1 - 10.0 ** -(5 - i / 40) for i in range(200)), 0.0)
"""The shared thresholds in the order of their tests, fixed before data are seen: ``1 - t`` from 1e-5 up to 1.

Nearer to 1 float32, in which cascades run, does not tell apart what is above a threshold and what is not.
"""

FORGIVING = 2.0
"""The binomial test serves up to so many times the examples that it needs where no harm is seen."""


class Tested(NamedTuple):
    """The last policy that passed (the last level alone if none did), its p-value, and how many passed.

    ``test`` is the name of the test, and ``examples`` how many it counted.
    """

    thresholds: tuple[float, ...]
    p_value: float
    passed: int
    test: str
    examples: int


def controlled(
    outcomes: Outcomes, dims: Sequence[int], drop: float, delta: float, split: float | None, seed: int
) -> Tested:
    """Thresholds whose true drop is at most ``drop`` with a probability of ``1 - delta``.

    With a ``split`` that share of the examples, drawn by ``seed``, finds the path of policies, and the others test it.
    Without, all examples test ``FAMILY``. Either way the order of the tests owes nothing to the examples tested.
    """
    if split is None:
        return tested_in_order(outcomes, ((t,) * (len(dims) - 1) for t in FAMILY), drop, delta)
    count = outcomes.correct.shape[1]
    order = np.random.default_rng(seed).permutation(count)
    first, others = np.split(order, [math.floor(split * count)])
    return tested_in_order(outcomes.rows(others), careful_to_cheap(outcomes.rows(first), dims, drop), drop, delta)


def tested_in_order(outcomes: Outcomes, policies: Iterable[tuple[float, ...]], drop: float, delta: float) -> Tested:
    """Fixed-sequence testing: stop at the first policy whose ``p_value`` is above ``delta``, keep the one before.

    Rejecting the hypothesis of a policy that is truly bad has a probability of at most ``delta``, and the sequence
    cannot get past the first bad one without that: no correction for many tests is needed. What is tested is
    :func:`surely_right`, so that the bound also holds for the cascade as it runs, rounded.

    Source: Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test", arXiv 2110.01052 (the reduction to
    tests); Bauer, Statistics in Medicine 10 (1991) (tests in a fixed sequence).
    """
    full = outcomes.correct[-1]
    best = Tested((1.0,) * (len(outcomes.correct) - 1), 0.0, 0, which_test(len(full), drop, delta), len(full))
    known: dict[tuple[int, int], float] = {}  # neighbours often change as many examples
    for passed, thresholds in enumerate(policies, 1):
        right = surely_right(outcomes, thresholds)
        harm, gain = int((full & ~right).sum()), int((right & ~full).sum())
        if (harm, gain) not in known:
            known[harm, gain] = p_value(harm, gain, len(full), drop, delta)
        if known[harm, gain] > delta:
            break
        best = best._replace(thresholds=thresholds, p_value=known[harm, gain], passed=passed)
    return best


def surely_right(outcomes: Outcomes, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Whether the cascade is right, ``(N,)``, on whichever side of a threshold its confidences are rounded to."""
    right: NDArray[np.bool_] = outcomes.correct[-1]
    for g in reversed(range(len(thresholds))):
        if thresholds[g] >= 1:  # never accepts
            continue
        confidence, correct = outcomes.confidence[g], outcomes.correct[g]
        surely, maybe = (confidence > thresholds[g] + sign * outcomes.rounding for sign in (1, -1))
        right = np.where(surely, correct, right & (correct | ~maybe))
    return right


def which_test(n: int, drop: float, delta: float) -> str:
    """Which test ``n`` examples get, ``"binomial"`` or ``"paired"``: decided before any is seen.

    The binomial test certifies with the fewest examples, ``log(delta) / log(1 - drop)`` where no harm is seen, and is
    blind to what the cascade gets right that the last level does not. From twice as many on the paired test, which is
    not, forgives as much harm or more wherever there are a few gains.

    Example:
        >>> from mrl.cascade.risk import which_test
        >>> which_test(598, 0.005, 0.05), which_test(2000, 0.005, 0.05)
        ('binomial', 'paired')
    """
    needed = math.log(delta) / math.log1p(-drop) if drop > 0 else 0.0
    return "binomial" if n < FORGIVING * needed else "paired"


def p_value(harm: int, gain: int, n: int, drop: float, delta: float) -> float:
    """Evidence against ``E L > drop`` with ``L = 1[full model right] - 1[cascade right]``, from ``n`` draws of it.

    ``harm`` examples have ``L = 1``, ``gain`` have -1, the others 0. As :func:`which_test` says, from ``n`` alone:

    * ``P(Bin(n, drop) <= harm)``, exact, because ``E L`` is at most the probability of harm;
    * or :func:`~mrl.cascade.paired.paired_p_value`, exact too, which counts the gains.

    Example:
        >>> from mrl.cascade.risk import p_value
        >>> p_value(0, 0, 598, 0.005, 0.05) < 0.05 < p_value(0, 0, 597, 0.005, 0.05)
        True
    """
    if which_test(n, drop, delta) == "binomial":
        return binomial_cdf(harm, n, drop)
    return paired_p_value(harm, gain, n, drop, delta)
