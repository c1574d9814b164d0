"""What rounding may do: the pieces that the error bounds of all families are made of."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from .problems import SMALLEST, UNIT_ROUNDOFF, Float, Problem

Bounded: TypeAlias = dict[str, tuple[Float, Float]]
"""``{name: (value, bound)}``: the specification's values, and how far a right implementation may be from them."""


def gamma(n: int, u: float) -> float:
    """``n u / (1 - n u)``: what ``n`` roundings can do to a product or a sum, relatively."""
    return n * u / (1 - n * u)


def finish(problem: Problem, bounded: Bounded, rounded: tuple[str, ...] = ()) -> Bounded:
    """Add the last rounding to the dtype of the result, and the specification's own error in float64."""
    finished: Bounded = {}
    for name, (value, bound) in bounded.items():
        dtype = problem.dtype if name in rounded or name == "dz" else problem.accumulation
        if name.startswith("dhead"):
            dtype = problem.head_dtype
        bound = bound + UNIT_ROUNDOFF[dtype] * (np.abs(value) + bound) + SMALLEST[dtype]
        finished[name] = value, 2 * bound if problem.accumulation == "float64" else bound
    return finished
