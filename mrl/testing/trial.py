"""One problem on one implementation: run, with a mistake put in, and looked at for what no bound tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case, Mutant
from .comparison import compare
from .drivers import Call, Driver, Result
from .problems import Problem
from .rounding import Bounded


def expected(case: Case, problem: Problem) -> Bounded:
    """What the specification says, and bounds: of numbers that may vanish, as strict as the caller has set NumPy."""
    with np.errstate(under="ignore"):
        return case.expected(problem)


def run(case: Case, driver: Driver, mode: str, problem: Problem, device: Any) -> Result:
    layout, arrays, parameters = problem.layout, case.arrays(problem), case.parameters(problem)
    call = Call(
        case.function(layout),
        arrays,
        [*case.constants(problem), *parameters],
        problem.upstream if case.gradients else None,
        problem.dtype,
        device,
        key=(case.name, layout),
        known_axes=case.known_axes,
        rowless=len(parameters),
        dtypes=(problem.dtype, *[problem.head_dtype] * (len(arrays) - 1)),
        frozen=layout.frozen,
        strided=layout.strided,
        twice=layout.twice,
    )
    return driver.run(mode, call)


def dies(mutant: Mutant, case: Case, driver: Driver, mode: str, problem: Problem, wanted: Bounded, device: Any) -> bool:
    """Whether a bound is broken with the mistake put in; not where the problem has no place for it."""
    with np.errstate(under="ignore"):
        changed = mutant.problem(problem)
    if changed is None:
        return False
    found = run(case, driver, mode, changed, device)
    with np.errstate(all="ignore"):  # a mistake may make anything of a number
        result = mutant.result(found, problem)
    return result is not None and compare(wanted, result)[0] > 1


def check_outputs(case: Case, problem: Problem, expected: Bounded, result: Result) -> None:
    """Number and dtypes of the outputs and gradients.

    Raises:
        AssertionError: others than the case says.
    """
    wanted = problem.dtype if case.narrow else problem.accumulation
    names = [name for name in expected if not name.startswith("d")]
    if len(result.outputs) != len(names):
        raise AssertionError(f"{case.name}: expected the outputs {names}, got {len(result.outputs)} of them")
    integers, rest = result.output_dtypes[: len(case.discrete)], result.output_dtypes[len(case.discrete) :]
    if not set(integers) <= {"int32", "int64"}:
        raise AssertionError(f"{case.name}: expected {case.discrete} as integers, got {integers}")
    names = [problem.head_dtype if name.startswith("dhead") else problem.dtype for name in expected if name[0] == "d"]
    gradients = [dtype for place, dtype in enumerate(names) if place not in problem.layout.frozen]
    if set(rest) != {wanted} or (result.gradients is not None and result.gradient_dtypes != gradients):
        raise AssertionError(
            f"{case.name}: expected outputs in {wanted} and gradients in {', '.join(gradients)}, "
            f"got {result.output_dtypes} and {result.gradient_dtypes}"
        )
