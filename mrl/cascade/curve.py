"""Many policies on the same examples: accuracy against dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..heads import Array
from .interval import Interval
from .outcomes import Outcomes
from .policy import CascadePolicy, check_policy
from .report import CascadeReport, check_interval, level_dims, measure_policy, report_of


class CurvePoint(NamedTuple):
    """One policy of a curve.

    Attributes:
        policy: the policy.
        expected_dim: mean dimensions of the accepted level.
        cumulative_dim: mean dimensions of all levels visited.
        accuracy: share of right answers.

    Example:
        >>> import mrl
        >>> mrl.CurvePoint._fields
        ('policy', 'expected_dim', 'cumulative_dim', 'accuracy')

    Source: arXiv 2205.13147, figure 6.
    """

    policy: CascadePolicy
    expected_dim: Interval
    cumulative_dim: Interval
    accuracy: Interval


def cascade_curve(
    probabilities: Array | tuple[Array, Array],
    labels: Array | None,
    policies: Iterable[CascadePolicy],
    *,
    logits: bool = False,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> list[CurvePoint]:
    """Accuracy and dimensions of each of several policies, in their order.

    A policy may have fewer levels than the others, as ``policy.capped(k)`` does: it uses the first levels.

    Args:
        probabilities: ``(G, ..., C)`` floating, of any framework; or ``(confidence, correct)`` as in
            :func:`fit_cascade`. ``G`` is at least the number of levels of the longest policy.
        labels: ``(...)`` integer class indices of any framework, or a list; ``None`` with a pair.
        policies: at least one, all with the same dims or the first of them.
        logits: ``probabilities`` are logits.
        confidence_level: of the intervals, between 0 and 1.
        seed: of the resamplings.

    Returns:
        One :class:`CurvePoint` per policy, as :func:`cascade_report` would find them.

    Raises:
        TypeError: traced arrays, or something that is no policy.
        ValueError: no policy, policies of different dims, shapes that do not fit, labels out of range.

    Example:
        >>> import mrl, numpy as np
        >>> confidence, correct = np.array([[0.9, 0.6], [0.9, 0.9]]), np.array([[True, False], [True, True]])
        >>> policy = mrl.CascadePolicy((0.8,), (8, 16))
        >>> points = mrl.cascade_curve((confidence, correct), None, [policy, policy.capped(1)])
        >>> [(point.expected_dim.value, point.accuracy.value) for point in points]
        [(12.0, 1.0), (8.0, 0.5)]

    Source: arXiv 2205.13147, section 4.2.1, figure 6.
    """
    reports = reports_of(probabilities, labels, policies, logits, confidence_level, seed)
    return [CurvePoint(p, r.expected_dim, r.cumulative_dim, r.accuracy) for p, r, _ in reports]


@np.errstate(all="ignore")
def reports_of(
    probabilities: Any,
    labels: Any,
    policies: Iterable[CascadePolicy],
    logits: bool,
    level: float,
    seed: int,
    names: Sequence[str] | None = None,
) -> list[tuple[CascadePolicy, CascadeReport, Outcomes]]:
    """Each policy with its report and outcomes; what policies share is measured once. Errors say ``names``."""
    policies = list(policies) if isinstance(policies, Iterable) else [policies]
    if not policies:
        raise ValueError("policies: expected at least one policy, got none; fit some with mrl.fit_cascade")
    for policy in policies:
        check_policy(policy)
    level, seed = check_interval(level, seed)
    dims = level_dims(policies, names or [f"policies[{i}]" for i in range(len(policies))])
    measured: dict[Any, Outcomes] = {}
    found = []
    for policy in policies:
        scales = policy.temperatures + (1.0,) * (len(dims) - len(policy))
        key = (policy.confidence, scales)
        if key not in measured:
            whole = CascadePolicy((1.0,) * (len(dims) - 1), dims, confidence=policy.confidence, temperatures=scales)
            measured[key] = measure_policy(probabilities, labels, whole, logits)
        outcomes = measured[key].first(len(policy))
        found.append((policy, report_of(outcomes, policy, level, seed), measured[key]))
    return found
