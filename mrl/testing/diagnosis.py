"""Which mistake a refuted loss makes: each is a specification too, and the loss is held against every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import trial
from .case import Case
from .drivers import Result
from .problems import Float, Problem
from .rounding import Bounded

ROOM = 16.0
"""Times the bound of a right loss is what a wrong one is allowed: mistakes are apart by far more."""

STEP = 1e-40
"""Of a complex step: its square is nothing beside 1, so that the derivative is exact to rounding."""

Total = Callable[[Problem, list[Any]], Any]


def mistakes_of(case: Case, dtype: str, run: Callable[[Problem], Result]) -> list[str]:
    """The mistakes that give what the implementation gives, values and gradients, on every problem of the diagnosis.

    None where it raises on one of these, or is right on all of them: its mistake lies in a corner.
    """
    if case.diagnosis is None:
        return []
    seen = []
    for problem in case.diagnosis.problems(dtype):
        try:
            seen.append((problem, trial.expected(case, problem), run(problem)))
        except Exception:  # an implementation may refuse what another was drawn for
            return []
    return [name for name, total in case.diagnosis.mistakes.items() if _explains(total, case, seen)]


def _explains(total: Total, case: Case, seen: list[tuple[Problem, Bounded, Result]]) -> bool:
    wrong = False
    for problem, expected, result in seen:
        outputs = [(name, *pair) for name, pair in expected.items() if name == "total" or name.startswith("d")]
        found = [result.outputs[0], *(result.gradients or ())]
        arrays = case.arrays(problem)
        for place, ((_, right, bound), x) in enumerate(zip(outputs, found, strict=False)):
            # One output after the other: most mistakes are told apart by the first.
            value = value_of(total, problem, arrays) if place == 0 else gradient_of(total, problem, arrays, place - 1)
            if np.shape(value) != np.shape(x):
                return False
            room = ROOM * np.max(bound, initial=0.0) * max(1.0, _size(value) / max(_size(right), 1e-300))
            if not _size(x - value) <= room:
                return False
            wrong = wrong or not _size(right - value) <= room
    return wrong


def value_of(total: Total, problem: Problem, arrays: list[Float]) -> Float:
    """What a mistake makes of a problem."""
    with np.errstate(all="ignore"):
        return np.asarray(np.real(total(problem, arrays)), np.float64)


def gradient_of(total: Total, problem: Problem, arrays: list[Float], place: int) -> Float:
    """Of ``sum(upstream * total)`` for one of the arrays, an imaginary step for each of its entries."""
    gradient = np.zeros(arrays[place].shape)
    with np.errstate(all="ignore"):
        for entry in np.ndindex(gradient.shape):
            stepped = arrays[place].astype(complex)
            stepped[entry] += STEP * 1j
            changed = total(problem, [*arrays[:place], stepped, *arrays[place + 1 :]])
            gradient[entry] = np.sum(problem.upstream * np.imag(changed)) / STEP
    return gradient


def _size(x: Any) -> float:
    return float(np.max(np.abs(x), initial=0.0))
