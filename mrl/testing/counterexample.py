"""What is said of an implementation that is wrong: every output that is, the smallest problem, and how to run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import trial
from .case import Case
from .comparison import compare, wrong_outputs
from .contrastive.smaller import smallest as smallest_pairs
from .diagnosis import mistakes_of
from .drivers import Driver, Result
from .minimize import smallest
from .problems import Problem
from .snippet import snippet

CLEARLY = 10.0
"""Times the bound: so far off, if the problem found was, a smaller one has to be, or another machine may not see it."""

Run = Callable[[Problem], Result]


def counter_example(
    what: str, case: Case, driver: Driver, found: Problem, run: Run, device: object, *, compiled: bool
) -> Exception | None:
    """The error that says what is wrong on the smallest problem; ``None`` where it does not happen again.

    What an implementation raises itself is raised, with the problem as a note.
    """
    verdict = _verdict(case, found, run)
    if verdict.kind is None:
        return None

    def refuted(problem: Problem) -> bool:
        if not case.admits(problem):
            return False
        again = _verdict(case, problem, run)
        usual = again.finite or not verdict.finite  # of no infinity or NaN where there was none
        return usual and again.kind == verdict.kind and again.share >= min(verdict.share, CLEARLY)

    if case.discrete or found.layout.given == "logits":
        small = found
    else:
        make_small = smallest_pairs if found.layout.given == "pairs" else smallest
        small = make_small(found, refuted, compiled=compiled)
    try:
        expected, result = trial.expected(case, small), run(small)
    except Exception as error:
        error.add_note(f"{what}: raised on this problem\n\n{snippet(case, driver, small, device=device)}")
        return error
    said = [f"{what}: " + "\n  and ".join(wrong_outputs(expected, result))]
    names = mistakes_of(case, small.dtype, run)
    if names:
        said.append(f"It computes what this mistake would: {', or '.join(names)}.")
    code = snippet(case, driver, small, expected, result, device)
    return AssertionError("\n".join([*said, "The smallest problem found, to be run:", "", code, ""]))


class Verdict(NamedTuple):
    """What kind of failure, how far from the specification, and whether the specification is finite."""

    kind: type[Exception] | str | None
    share: float
    finite: bool


def _verdict(case: Case, problem: Problem, run: Run) -> Verdict:
    expected = trial.expected(case, problem)
    finite = all(np.all(np.isfinite(value)) for value, _ in expected.values())
    try:
        share, output = compare(expected, run(problem))
    except Exception as error:
        return Verdict(type(error), np.inf, finite)
    kind = None if share <= 1 else "shape" if " (shape" in output else "value"
    return Verdict(kind, np.inf if np.isnan(share) else share, finite)
