"""What a cascade comes to on labelled examples, each number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..heads import Array
from .binomial import clopper_pearson, paired_difference
from .interval import Interval
from .outcomes import Outcomes, accepted_level, measure, right_at
from .policy import CascadePolicy, check_policy

RESAMPLES = 2000


@dataclass(frozen=True)
class CascadeReport:
    """A cascade on labelled examples. Made by :func:`cascade_report`; ``str`` of it is a table.

    Attributes:
        examples: how many there were.
        confidence_level: of every interval.
        dims: ``(G,)`` the granularities.
        accuracy: share of right answers.
        top5_accuracy: share for which the label is among the five likeliest classes of the level that answers, of
            equals those with the smaller index; ``None`` for a pair, and for five classes or fewer.
        against_full: that less the share of the last level alone.
        expected_dim: mean of the accepted level's dimensions.
        cumulative_dim: mean of the sum of the dimensions of all levels visited.
        flops: ``2 C expected_dim``, multiplications and additions of an example's logits with one tied matrix,
            where a level adds its block; ``None`` where the classes are not known.
        cumulative_flops: ``2 C cumulative_dim``, where each level has a matrix of its own and starts again.
        exit_fractions: ``(G,)`` the share that each level answered.
        oracle_accuracy: share for which at least one level is right: the best level for every example.
        oracle_dim: mean dimensions of an oracle, which stops at the first level that is right, or else at the last.
        oracle_fractions: ``(G,)`` the share that stops there with the oracle.
        level_accuracies: ``(G,)`` of each level answering alone.

    Example:
        >>> import mrl, numpy as np
        >>> confidence, correct = np.array([[0.9, 0.6], [0.9, 0.9]]), np.array([[True, False], [True, True]])
        >>> report = mrl.cascade_report((confidence, correct), None, mrl.CascadePolicy((0.8,), (8, 16)))
        >>> report.accuracy.value, report.expected_dim.value, report.cumulative_dim.value, report.flops
        (1.0, 12.0, 16.0, None)
        >>> report.oracle_dim.value, [share.value for share in report.oracle_fractions]
        (12.0, [0.5, 0.5])

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1 (both accountings of dimensions, the oracle).
    """

    examples: int
    confidence_level: float
    dims: tuple[int, ...]
    accuracy: Interval
    top5_accuracy: Interval | None
    against_full: Interval
    expected_dim: Interval
    cumulative_dim: Interval
    flops: Interval | None
    cumulative_flops: Interval | None
    exit_fractions: tuple[Interval, ...]
    oracle_accuracy: Interval
    oracle_dim: Interval
    oracle_fractions: tuple[Interval, ...]
    level_accuracies: tuple[Interval, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON; an interval is ``{"value", "low", "high"}``.

        Example:
            >>> import mrl, numpy as np
            >>> pair = np.array([[0.9, 0.6], [0.9, 0.9]]), np.array([[True, False], [True, True]])
            >>> mrl.cascade_report(pair, None, mrl.CascadePolicy((0.8,), (8, 16))).to_dict()["dims"]
            [8, 16]
        """

        def plain(value: Any) -> Any:
            if isinstance(value, Interval):
                return value._asdict()
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}

    def table(self) -> str:
        """The report as text: shares in percent, the rest in their units.

        Example:
            >>> import mrl, numpy as np
            >>> pair = np.array([[0.9, 0.6], [0.9, 0.9]]), np.array([[True, False], [True, True]])
            >>> mrl.cascade_report(pair, None, mrl.CascadePolicy((0.8,), (8, 16))).table().splitlines()[0].strip()
            '2 examples, intervals at 95 %'
        """

        def share(value: Interval) -> str:
            return f"{100 * value.value:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]"

        lines = [
            f"{'':24}{self.examples} examples, intervals at {100 * self.confidence_level:g} %",
            f"{'accuracy, %':24}{share(self.accuracy)}",
            *([] if self.top5_accuracy is None else [f"{'top-5 accuracy, %':24}{share(self.top5_accuracy)}"]),
            f"{'less the last level, %':24}{share(self.against_full)}",
            f"{'oracle accuracy, %':24}{share(self.oracle_accuracy)}",
            f"{'oracle dimension':24}{self.oracle_dim}",
            f"{'expected dimension':24}{self.expected_dim}",
            f"{'cumulative dimension':24}{self.cumulative_dim}",
        ]
        if self.flops is not None:
            lines.append(f"{'FLOPs':24}{self.flops}")
            lines.append(f"{'cumulative FLOPs':24}{self.cumulative_flops}")
        lines.append(f"{'level':>8}{'answers, %':>26}{'oracle, %':>26}{'its accuracy alone, %':>28}")
        columns = self.exit_fractions, self.oracle_fractions, self.level_accuracies
        for m, exits, oracle, accuracy in zip(self.dims, *columns, strict=True):
            lines.append(f"{m:>8}{share(exits):>26}{share(oracle):>26}{share(accuracy):>28}")
        return "\n".join(lines)

    __str__ = table


@np.errstate(all="ignore")
def cascade_report(
    probabilities: Array | tuple[Array, Array],
    labels: Array | None,
    policy: CascadePolicy,
    *,
    logits: bool = False,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> CascadeReport:
    """How a cascade does on labelled examples.

    ``expected_dim = mean_i dims[level_i]`` and ``cumulative_dim = mean_i sum_{g <= level_i} dims[g]``. Proportions
    have the exact intervals of Clopper and Pearson, ``against_full``, a difference on the same examples, the score
    interval of Tango. Dimensions and FLOPs have percentiles of 2000 resamplings of the examples, drawn as counts, which
    is the same and does not depend on their number.

    Args:
        probabilities: ``(G, ..., C)`` floating, of any framework; or ``(confidence, correct)`` as in
            :func:`fit_cascade`.
        labels: ``(...)`` integer class indices of any framework, or a list; ``None`` with a pair.
        policy: the policy; it may have fewer than ``G`` levels, as ``policy.capped(k)`` does, and uses the first.
        logits: ``probabilities`` are logits.
        confidence_level: of the intervals, between 0 and 1.
        seed: of the resamplings.

    Returns:
        A :class:`CascadeReport`.

    Raises:
        TypeError: traced arrays, or no policy.
        ValueError: shapes that do not fit, labels out of range, no example, or a level outside (0, 1).

    Example:
        >>> import mrl, numpy as np
        >>> probabilities = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.3, 0.7]]])
        >>> report = mrl.cascade_report(probabilities, np.array([0, 1]), mrl.CascadePolicy((0.8,), (8, 16)))
        >>> report.accuracy.value, report.expected_dim.value, report.flops.value
        (1.0, 12.0, 48.0)

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1; Clopper and Pearson, Biometrika 26 (1934);
    Tango, Statistics in Medicine 17 (1998).
    """
    check_policy(policy)
    confidence_level, seed = check_interval(confidence_level, seed)
    outcomes = measure_policy(probabilities, labels, policy, logits)
    return report_of(outcomes, policy, confidence_level, seed)


def measure_policy(probabilities: Any, labels: Any, policy: CascadePolicy, logits: bool) -> Outcomes:
    pair = isinstance(probabilities, (tuple, list))
    return measure(
        probabilities,
        labels,
        len(policy),
        confidence=policy.confidence,
        temperatures=None if pair else policy.temperatures,
        logits=logits,
        more=True,
        top=True,
    )


def report_of(outcomes: Outcomes, policy: CascadePolicy, confidence_level: float, seed: int) -> CascadeReport:
    """The report of what is already measured."""
    level = accepted_level(outcomes.confidence, policy.thresholds)
    right, full = right_at(outcomes.correct, level), outcomes.correct[-1]
    count, dims = len(level), np.asarray(policy.dims, np.float64)
    solved = np.where(outcomes.correct.any(0), outcomes.correct.argmax(0), len(dims) - 1)
    exits, oracle = (np.bincount(x, minlength=len(dims)) for x in (level, solved))
    losses, _, gains = (int(k) for k in np.bincount(1 + right.astype(np.int64) - full, minlength=3))

    def share(hits: Any) -> Interval:
        return proportion(int(np.sum(hits)), count, confidence_level)

    def mean(counts: NDArray[np.int64], values: NDArray[np.float64]) -> Interval:
        return resampled_mean(counts, values, confidence_level, seed)

    expected, cumulative = mean(exits, dims), mean(exits, dims.cumsum())
    scale = None if outcomes.classes is None else 2 * outcomes.classes
    return CascadeReport(
        examples=count,
        confidence_level=confidence_level,
        dims=policy.dims,
        accuracy=share(right),
        top5_accuracy=None if outcomes.in_top is None else share(right_at(outcomes.in_top, level)),
        against_full=Interval((gains - losses) / count, *paired_difference(gains, losses, count, confidence_level)),
        expected_dim=expected,
        cumulative_dim=cumulative,
        flops=None if scale is None else Interval(*(scale * x for x in expected)),
        cumulative_flops=None if scale is None else Interval(*(scale * x for x in cumulative)),
        exit_fractions=tuple(proportion(int(k), count, confidence_level) for k in exits),
        oracle_accuracy=share(outcomes.correct.any(0)),
        oracle_dim=mean(oracle, dims),
        oracle_fractions=tuple(proportion(int(k), count, confidence_level) for k in oracle),
        level_accuracies=tuple(share(row) for row in outcomes.correct),
    )


def proportion(hits: int, count: int, level: float) -> Interval:
    return Interval(hits / count, *clopper_pearson(hits, count, level))


def resampled_mean(counts: NDArray[np.int64], values: NDArray[np.float64], level: float, seed: int) -> Interval:
    """The mean of ``values`` seen ``counts`` times, and percentiles of it over resamplings of as many examples.

    Examples with equal values are exchangeable: a resampling is one draw of a multinomial.
    """
    total = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=RESAMPLES)
    low, high = np.quantile(draws @ values / total, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(counts @ values / total), float(low), float(high))


def check_interval(confidence_level: Any, seed: Any) -> tuple[float, int]:
    if isinstance(confidence_level, bool) or not isinstance(confidence_level, (int, float, np.floating)):
        raise TypeError(f"confidence_level: expected a number, got {confidence_level!r}; write 0.95")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level: expected a number between 0 and 1, got {confidence_level}; write 0.95")
    return float(confidence_level), checks.check_integer("seed", seed, at_least=0)


def level_dims(policies: Sequence[CascadePolicy], names: Sequence[str]) -> tuple[int, ...]:
    """The granularities of the longest policy, of which all the others' are the first."""
    longest = max((policy.dims for policy in policies), key=len)
    for name, policy in zip(names, policies, strict=True):
        if policy.dims != longest[: len(policy)]:
            raise ValueError(
                f"{name}: expected the first of dims {longest}, got {policy.dims}; compare policies of one nesting"
            )
    return longest
