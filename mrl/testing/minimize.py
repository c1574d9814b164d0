"""From a problem on which an implementation is wrong to a small one with round numbers, on which it still is.

Greedy, and made of what a problem is made of: fewer levels, rows, classes and features, options off, weights 1, then
zeros, ones, small integers and few binary digits. Its limits count trials and layouts, never seconds: the same
problem gives the same counter-example on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..heads import NestedHead, TiedHead, head_leaves
from ..nesting import Nesting
from .cutting import arrays_of, axes, cut, flattened
from .problems import Float, Layout, Problem, head_from

TRIALS, TRIALS_COMPILED = 1500, 200
"""Of a smaller problem each; where a framework compiles, a trial costs more."""

LAYOUTS_COMPILED = 8
"""Each compiles anew."""

ROUNDS = 4
"""Fewer numbers and rounder numbers make room for each other; hardly ever for a third time."""

Holds = Callable[[Problem], bool]
Step = Callable[[Problem], Problem | None]


@dataclass
class Trials:
    """Whether a smaller problem is still refuted, within a budget of trials and of layouts."""

    refuted: Holds
    left: int
    layouts_left: int | None
    seen: set[Layout] = field(default_factory=set)

    def __call__(self, problem: Problem) -> bool:
        new = problem.layout not in self.seen
        if self.left == 0 or (new and self.layouts_left == 0):
            return False
        self.left -= 1
        if new and self.layouts_left is not None:
            self.layouts_left -= 1
        self.seen.add(problem.layout)
        return self.refuted(problem)


def smallest(problem: Problem, refuted: Holds, *, compiled: bool = False) -> Problem:
    """The smallest problem that greedy steps from ``problem`` come to, with every one of them ``refuted``.

    Args:
        problem: one that is refuted.
        refuted: whether an implementation is wrong on a problem.
        compiled: every layout costs a compilation: try few.

    Example:
        >>> import mrl, numpy as np
        >>> from mrl.testing import Layout, Problem
        >>> z, weight = np.full((3, 2), 0.7), np.full((4, 2), -1.3)
        >>> layout = Layout(mrl.Nesting((1, 2)), bias=False)
        >>> problem = Problem(layout, "float32", z, mrl.TiedHead(weight), np.array([3, 1, 2]), np.array(0.3))
        >>> small = smallest(problem, lambda problem: problem.z.sum() > 0.5)
        >>> small.layout.nesting, small.z.tolist(), small.head.weight.tolist()
        (Nesting((1,)), [[1.0]], [[0.0]])
    """
    holds = Trials(refuted, TRIALS_COMPILED if compiled else TRIALS, LAYOUTS_COMPILED if compiled else None)
    holds.seen.add(problem.layout)
    for _ in range(ROUNDS):
        before = problem
        problem = _plainer(problem, holds)
        for axis in ("levels", "rows", "classes", "features"):
            problem = _fewer(problem, axis, holds)
        problem = _rounder(_plainer(problem, holds), holds)
        if problem is before:
            break
    return problem


def _fewer(problem: Problem, axis: str, holds: Holds) -> Problem:
    """Without what can be spared along an axis: all but one first, then halves, then one by one."""
    for name, size in axes(problem, axis):
        if size < 2:
            continue
        for one in range(min(size, 4)):
            alone = cut(problem, name, [one])
            if alone is not None and holds(alone):
                problem, size = alone, 1
                break
        span = size // 2
        while span and size > 1:
            start = size - span
            while start >= 0 and size > span:
                kept = [i for i in range(size) if not start <= i < start + span]
                candidate = cut(problem, name, kept)
                if candidate is not None and holds(candidate):
                    problem, size = candidate, len(kept)
                start -= span
            span //= 2
    return problem


def _plainer(problem: Problem, holds: Holds) -> Problem:
    """With options off, and one row of plain axes."""
    plain = [partial(_without, name=name, off=off) for name, off in OFF.items()]
    unweighted = [partial(_unweighted, name=name) for name in problem.layout.weighted]
    steps: tuple[Step, ...] = (_flat, _nothing_ignored, _mean, _hard, _without_bias, _tied, _weights_one)
    steps = (*plain, *unweighted, *steps)
    for step in steps:
        candidate = step(problem)
        if candidate is not None and holds(candidate):
            problem = candidate
    for g, weight in enumerate(problem.layout.nesting.weights):
        for simple in (1.0, 2.0):
            if weight not in (1.0, simple):
                candidate = _weighted(problem, [*_weights(problem)[:g], simple, *_weights(problem)[g + 1 :]])
                if holds(candidate):
                    problem = candidate
                    break
    return problem


def _flat(problem: Problem) -> Problem | None:
    return flattened(problem) if len(problem.layout.lead) > 1 else None


OFF: dict[str, Any] = {
    "frozen": (), "strided": False, "twice": False, "head_dtype": "", "label_smoothing": 0.0, "chunk_rows": None
}  # fmt: skip
"""What a layout may do without, whatever its numbers."""


def _without(problem: Problem, name: str, off: Any) -> Problem | None:
    return None if getattr(problem.layout, name) == off else problem.with_layout(**{name: off})


def _unweighted(problem: Problem, name: str) -> Problem:
    left = tuple(other for other in problem.layout.weighted if other != name)
    gone: dict[str, Any] = {name: None}
    return replace(problem, **gone).with_layout(weighted=left)


def _hard(problem: Problem) -> Problem | None:
    if not problem.layout.soft:
        return None
    return replace(problem, labels=np.argmax(problem.labels, -1)).with_layout(soft=False)


def _nothing_ignored(problem: Problem) -> Problem | None:
    if problem.layout.ignore_index is None:
        return None
    outside = (problem.labels < 0) | (problem.labels >= problem.layout.classes)
    return replace(problem, labels=np.where(outside, 0, problem.labels)).with_layout(ignore_index=None)


def _mean(problem: Problem) -> Problem | None:
    if problem.layout.reduction == "mean":
        return None
    scalar = np.ones(()) if problem.layout.reduction == "none" else problem.upstream
    return replace(problem, upstream=scalar).with_layout(reduction="mean")


def _without_bias(problem: Problem) -> Problem | None:
    if not problem.layout.bias or problem.layout.frozen:
        return None
    return problem.with_head(type(problem.head)(problem.head[0])).with_layout(bias=False)


def _tied(problem: Problem) -> Problem | None:
    if not isinstance(problem.head, NestedHead) or problem.layout.frozen:
        return None
    weight = np.zeros((problem.layout.classes, problem.layout.features))
    weight[:, : problem.layout.nesting.width] = problem.head.weights[-1]
    head = TiedHead(weight, problem.head.biases[-1] if problem.head.biases else None)
    return problem.with_head(head).with_layout(tied=True)


def _weights_one(problem: Problem) -> Problem | None:
    return None if set(_weights(problem)) == {1.0} else _weighted(problem, [1.0] * len(_weights(problem)))


def _weights(problem: Problem) -> tuple[float, ...]:
    return problem.layout.nesting.weights


def _weighted(problem: Problem, weights: list[float]) -> Problem:
    return problem.with_layout(nesting=Nesting(problem.layout.nesting.dims, weights))


def _rounder(problem: Problem, holds: Holds) -> Problem:
    """With zeros, ones, small integers and few binary digits: whole arrays first, then halves, then entries."""
    for name in _numbers(problem):
        values = _get(problem, name)
        span = values.size
        while span:
            for start in range(0, values.size, span):
                part = values.reshape(-1)[start : start + span]
                for simple in _simpler(part, first=1.0 if name in ONES else 0.0):
                    changed = values.reshape(-1).copy()
                    changed[start : start + span] = simple
                    candidate = _set(problem, name, changed.reshape(values.shape))
                    if holds(candidate):
                        problem, values = candidate, _get(candidate, name)
                        break
            span = span // 2 if span < 4 or values.size <= MOST_ENTRIES else span // 4
            if span * MOST_ENTRIES < values.size:
                break
    return problem


ONES = ("upstream", "sample_weight", "class_weight", "level_weights")
"""Arrays whose plainest number is 1."""

MOST_ENTRIES = 256
"""Of a larger array, parts are made round and not entries."""


def _simpler(part: Float, first: float) -> Iterator[Float]:
    """Values that are read more quickly than those of ``part``, the simplest first."""
    whole = np.issubdtype(part.dtype, np.integer)
    finite = np.where(np.isfinite(part), part, 0)
    candidates = [np.full_like(part, first), np.ones_like(part)]
    if not whole:
        mantissa, exponent = np.frexp(finite)
        candidates += [np.rint(finite), np.rint(2 * finite) / 2]
        candidates += [np.ldexp(np.rint(np.ldexp(mantissa, bits)) / 2**bits, exponent) for bits in (1, 2, 4, 7)]
    cost = _cost(part, first)
    for candidate in candidates:
        candidate = np.where(np.isneginf(part), part, candidate)  # a class that is excluded stays so
        if _cost(candidate, first) < cost:
            yield candidate.astype(part.dtype)


def _cost(values: Any, first: float) -> float:
    """How much there is to read: the digits of every number, none for the simplest, and of two digits the smaller."""
    numbers = np.asarray(values, np.float64).flat
    return sum(0.0 if x == first else len(f"{x:.17g}") + min(abs(x), 99.0) / 100 for x in numbers)


def _numbers(problem: Problem) -> list[str]:
    """The names of a problem's arrays, those of its head by their place."""
    return [*arrays_of(problem), *(f"head {i}" for i in range(len(head_leaves(problem.head))))]


def _get(problem: Problem, name: str) -> Any:
    if name.startswith("head "):
        return np.asarray(head_leaves(problem.head)[int(name[5:])])
    return getattr(problem, name)


def _set(problem: Problem, name: str, values: Any) -> Problem:
    if name.startswith("head "):
        leaves = list(head_leaves(problem.head))
        leaves[int(name[5:])] = values
        return problem.with_head(head_from(problem.layout, leaves))
    return replace(problem, **{name: values})
