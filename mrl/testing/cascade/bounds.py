"""What a cascade must answer, and where rounding leaves it a choice.

A level's confidence is known up to a bound ``E``, carried from the logits through the softmax. Whether the level
accepts is decided where the confidence is further than ``2 E`` from its threshold, or where it is exact; the label
where the two largest logits are further apart than twice their bound. A decided answer has a bound of zero, an
undecided one of infinity.
"""

from __future__ import annotations

import numpy as np

from ... import spec
from ..cross_entropy.bounds import logits_bound
from ..problems import SMALLEST, UNIT_ROUNDOFF, Float, Problem, round_to
from ..rounding import Bounded, gamma


def cascade_values(problem: Problem) -> tuple[Float, Float]:
    """The logits or probabilities ``(G, ..., C)`` that a cascade decides on, and how exactly it knows them."""
    if problem.layout.given == "embeddings":
        return spec.nested_logits(problem.z, problem.head, problem.layout.nesting), logits_bound(problem)
    return problem.z, np.zeros_like(problem.z)


def cascade(problem: Problem) -> Bounded:
    """Labels, levels and confidences of a cascade."""
    policy, given = problem.layout.policy, problem.layout.given
    assert policy is not None
    values, e_values = cascade_values(problem)
    logits, factor = given != "probabilities", 2 if problem.dtype == "float64" else 1
    result = spec.cascade_exit(values, policy, logits=logits)
    last = len(policy) - 1
    decided = np.ones(result.level.shape, bool)
    bound, e_label = np.zeros(result.level.shape), np.zeros(result.level.shape)
    gap = np.full(result.level.shape, np.inf)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for g in range(last + 1):
            found = spec.confidence(values[g], policy.confidence, policy.temperatures[g], logits=logits)
            e = factor * confidence_bound(problem, g, values[g], e_values[g], found)
            here = result.level == g
            bound = np.where(here, e, bound)
            e_label = np.where(here, factor * e_values[g].max(-1), e_label)
            if values.shape[-1] > 1:
                ordered = np.sort(values[g], axis=-1)
                gap = np.where(here, ordered[..., -1] - ordered[..., -2], gap)
            if g < last:
                threshold = policy.thresholds[g]
                clear = np.isnan(found) | (threshold >= 1) | (e == 0) | (np.abs(found - threshold) > 2 * e)
                decided &= clear | (result.level < g)
    u = UNIT_ROUNDOFF[problem.accumulation]
    named = decided & ((e_label == 0) | (gap > 2 * e_label) | np.isnan(result.confidence))
    rounded = bound + u * (np.abs(result.confidence) + bound) + SMALLEST[problem.accumulation]
    return {
        "labels": (result.labels.astype(np.float64), np.where(named, 0.0, np.inf)),
        "level": (result.level.astype(np.float64), np.where(decided, 0.0, np.inf)),
        "confidence": (result.confidence, np.where(decided, rounded, np.inf)),
    }


def confidence_bound(problem: Problem, g: int, values: Float, e_values: Float, found: Float) -> Float:
    """``E`` of the confidence of level ``g``: of probabilities, or of logits known up to ``e_values``."""
    policy = problem.layout.policy
    assert policy is not None
    u, temperature = UNIT_ROUNDOFF[problem.accumulation], policy.temperatures[g]
    classes = values.shape[-1]
    if problem.layout.given == "probabilities" and temperature == 1:
        if policy.confidence == "probability":
            return np.zeros_like(found)
        if policy.confidence == "margin":  # one difference, rounded once
            return np.abs(round_to(found, problem.accumulation) - found)
        terms = np.where(values > 0, -values * np.log(np.where(values > 0, values, 1)), 0.0).sum(-1)
        return np.asarray(gamma(classes + 8, u) * terms / np.log(max(classes, 2)) + (classes + 4) * u)
    s, e_s = values, e_values
    if problem.layout.given == "probabilities":
        s = np.log(values)
        e_s = 3 * u * np.abs(s)
    # Dividing by the temperature rounds, and so does taking away the largest, in either order.
    e = (e_s + 4 * u * (np.abs(s) + np.abs(s.max(-1, keepdims=True)))) / temperature
    x = s / temperature
    lse = np.logaddexp.reduce(x, axis=-1, keepdims=True)
    below = np.abs(x - lse)
    p = np.exp(x - lse)
    e_lse = np.log1p(np.sum(p * np.expm1(e), -1, keepdims=True))
    e_lse += u * (classes + np.log(classes) + 4 + 2 * np.abs(lse))
    relative = np.expm1(e + e_lse + u * (6 + below)) + 2 * u
    e_p = p * relative
    if policy.confidence == "probability" or classes == 1:
        return np.asarray(e_p.max(-1) + 2 * u)
    if policy.confidence == "margin":
        return np.asarray(2 * e_p.max(-1) + 3 * u)
    # p' log p' is off by at most p r |log p| + p (1 + r) r, with r the relative error of p.
    size = (e_p * (below + 2 + relative) + p * e).sum(-1) + e_lse[..., 0]
    size = size + gamma(classes + 8, u) * ((p * below).sum(-1) + np.abs(lse[..., 0]) + 1)
    return np.asarray(size / np.log(classes) + 4 * u)
