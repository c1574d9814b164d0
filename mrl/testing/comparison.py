"""How far a result is from the specification, as a share of its bounds, and what is said of one that is too far."""

from __future__ import annotations

import numpy as np

from .drivers import Result
from .problems import Float, Problem
from .rounding import Bounded

MOST_NUMBERS_SHOWN = 2000  # of an array in a counter-example, which is there to be pasted into a test


def compare(expected: Bounded, result: Result) -> tuple[float, str]:
    """The largest error of a result as a share of its bound, and the output where it is."""
    worst, where = 0.0, "-"
    for name, x in _found(expected, result).items():
        value, bound = expected[name]
        if np.shape(x) != np.shape(value):
            return np.inf, f"{name} (shape {np.shape(x)}, expected {np.shape(value)})"
        share = float(np.max(_shares(x, value, bound), initial=0.0))
        if share > worst:
            worst, where = share, name
    return worst, where


def report(what: str, output: str, share: float, problem: Problem, expected: Bounded, result: Result) -> str:
    """The message of a counter-example: what came for what, and the problem."""
    with np.printoptions(precision=17, threshold=MOST_NUMBERS_SHOWN):
        lines = [f"  {name}: {value!r}" for name, value in vars(problem).items() if value is not None]
    where = ""
    if output in expected:
        x, (value, bound) = np.asarray(_found(expected, result)[output]), expected[output]
        worst = np.unravel_index(np.argmax(_shares(x, value, bound)), x.shape)
        place = f" at {tuple(map(int, worst))}" if worst else ""
        where = f" ({x[worst]:.9g} for {value[worst]:.9g} within {np.broadcast_to(bound, x.shape)[worst]:.3g}{place})"
    first = f"{what}: {output} is {share:.3g} times its error bound away from the specification{where}, for"
    return "\n".join([first, *lines])


def _found(expected: Bounded, result: Result) -> dict[str, Float]:
    values = [name for name in expected if not name.startswith("d")]
    gradients = [name for name in expected if name.startswith("d")]
    found = dict(zip(values, result.outputs, strict=False))  # a loss of a user gives no more than the total
    if result.gradients is not None:
        found |= zip(gradients, result.gradients, strict=True)
    return found


def _shares(x: Float, value: Float, bound: Float) -> Float:
    agree = (np.isnan(x) & np.isnan(value)) | (x == value)  # infinities too
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = np.where(agree, 0.0, np.abs(x - value) / bound)
    return np.where(np.isnan(shares), np.inf, shares)
