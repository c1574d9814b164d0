"""The mistakes that a cascade can make: in what it compares, in whose answer it gives, and in what it carries along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ... import spec
from ...cascade.policy import CascadePolicy
from ...heads import TiedHead
from ..case import Mutant
from ..cross_entropy.mutants import LOGITS
from ..drivers import Result
from ..problems import Float, Problem
from .bounds import cascade_values

Accepts = Callable[[Float, float], Any]


def _strictly(confidence: Float, threshold: float) -> Any:
    return (confidence > threshold) & (threshold < 1)


def _walk(
    problem: Problem,
    *,
    values: Float | None = None,
    policy: CascadePolicy | None = None,
    accepts: Accepts = _strictly,
    highest: bool = False,
    last_refuses: bool = False,
) -> Sequence[Float]:
    """A cascade with a mistake: labels, levels and confidences."""
    policy = policy or problem.layout.policy
    assert policy is not None
    values = cascade_values(problem)[0] if values is None else values
    logits, last = problem.layout.given != "probabilities", len(policy) - 1
    labels = np.full(values.shape[1:-1], -1.0)
    level, found = np.full(labels.shape, float(last)), np.full(labels.shape, np.nan)
    waiting = np.ones(labels.shape, bool)
    for g in range(last + 1):
        confidence = spec.confidence(values[g], policy.confidence, policy.temperatures[g], logits=logits)
        exits = waiting & (accepts(confidence, policy.thresholds[g]) if g < last else True)
        if g == last and last_refuses:
            exits &= accepts(confidence, 0.5)
        answer = values.shape[-1] - 1 - values[g][..., ::-1].argmax(-1) if highest else values[g].argmax(-1)
        labels = np.where(exits, np.where(np.isnan(confidence), -1, answer), labels)
        level, found = np.where(exits, g, level), np.where(exits, confidence, found)
        waiting &= ~exits
    return labels, level, found


def _mistaken(**mistake: Any) -> Callable[[Result, Problem], Result | None]:
    def change(result: Result, problem: Problem) -> Result | None:
        return result._replace(outputs=list(_walk(problem, **mistake)))

    return change


def _level_off_by_one(result: Result, problem: Problem) -> Result | None:
    labels, level, confidence = result.outputs
    return result._replace(outputs=[labels, level + 1, confidence])


def _thresholds(change: Callable[[Float], Any]) -> Callable[[Result, Problem], Result | None]:
    def apply(result: Result, problem: Problem) -> Result | None:
        policy = problem.layout.policy
        assert policy is not None
        thresholds = np.clip(change(np.asarray(policy.thresholds)), 0, 1).astype(float).tolist()
        changed = CascadePolicy(thresholds, policy.dims, confidence=policy.confidence, temperatures=policy.temperatures)
        return result._replace(outputs=list(_walk(problem, policy=changed)))

    return apply


def _rounded_up(result: Result, problem: Problem) -> Result | None:
    policy = problem.layout.policy
    assert policy is not None
    nearest = np.asarray(policy.thresholds, np.float32)
    up = np.where(nearest >= policy.thresholds, nearest, np.nextafter(nearest, np.float32(2))).tolist()
    changed = CascadePolicy(up, policy.dims, confidence=policy.confidence, temperatures=policy.temperatures)
    return result._replace(outputs=list(_walk(problem, policy=changed)))


def _no_temperature(result: Result, problem: Problem) -> Result | None:
    policy = problem.layout.policy
    assert policy is not None
    changed = CascadePolicy(policy.thresholds, policy.dims, confidence=policy.confidence)
    return result._replace(outputs=list(_walk(problem, policy=changed)))


def _nan_accepts(result: Result, problem: Problem) -> Result | None:
    return result._replace(outputs=list(_walk(problem, accepts=lambda c, t: ~(c <= t) & (t < 1))))


def _blocks(problem: Problem) -> list[Float] | None:
    """What each level of a tied head adds to the logits."""
    if not isinstance(problem.head, TiedHead) or len(problem.layout.nesting) < 2:
        return None
    values = cascade_values(problem)[0]
    return [values[0], *np.diff(values, axis=0)]


def _block_twice(result: Result, problem: Problem) -> Result | None:
    blocks = _blocks(problem)
    if blocks is None:
        return None
    return result._replace(outputs=list(_walk(problem, values=np.cumsum([blocks[0], 2 * blocks[1], *blocks[2:]], 0))))


def _stale_logits(result: Result, problem: Problem) -> Result | None:
    """After the first level the rows move up, and their logits stay where they were."""
    blocks = _blocks(problem)
    if blocks is None or problem.layout.rows < 2:
        return None
    moved = np.roll(blocks[0].reshape(problem.layout.rows, -1), 1, 0).reshape(blocks[0].shape)
    wrong = np.cumsum([moved, *blocks[1:]], 0)
    wrong[0] = blocks[0]
    return result._replace(outputs=list(_walk(problem, values=wrong)))


def _another_row(problem: Problem) -> Problem | None:
    return replace(problem, z=np.roll(problem.z, 1, 0)) if problem.layout.rows > 1 else None


GIVEN_LOGITS = (
    Mutant("last level does not always accept", result=_mistaken(last_refuses=True)),
    Mutant("level off by one", result=_level_off_by_one),
    Mutant("temperature ignored", result=_no_temperature),
    Mutant("NaN accepts", result=_nan_accepts),
    Mutant("thresholds in half precision", result=_thresholds(np.float16), retraces=True),
    Mutant("thresholds off by 1e-3", result=_thresholds(lambda thresholds: thresholds + 1e-3), retraces=True),
)

GIVEN_PROBABILITIES = (
    Mutant(">= for >", result=_mistaken(accepts=lambda c, t: (c >= t) & (t < 1))),
    Mutant("threshold rounded up to float32", result=_rounded_up),
    Mutant("ties to the highest index", result=_mistaken(highest=True)),
    *GIVEN_LOGITS,
)

GIVEN_EMBEDDINGS = (
    *(mutant for mutant in LOGITS if mutant.name in ("bias twice", "bias dropped", "slice starts one late")),
    Mutant("answers of another row", _another_row),
    Mutant("a block added twice", result=_block_twice),
    Mutant("logits of the row before compaction", result=_stale_logits),
    *GIVEN_LOGITS,
)
