"""The conformance kit: proves a backend, or a loss of your own, equal to the specification.

Needs Hypothesis (``pip install 'mrl[testing]'``). :func:`check_backend` proves a backend, built-in or plug-in;
:func:`check_loss` proves a loss that you wrote, in any framework, or gives the smallest counter-example.
Underneath, and public too: :mod:`~mrl.testing.strategies` (problems to draw), :mod:`~mrl.testing.bounds`
(forward error bounds), :mod:`~mrl.testing.cases`, :mod:`~mrl.testing.mutants` and
:mod:`~mrl.testing.drivers` (how each framework runs and differentiates a function).
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(f"the proof kit needs Hypothesis ({error}); run pip install hypothesis") from error

from . import bounds, cases, drivers, mutants, problems, strategies
from .case import Case, Mutant
from .cases import CASES
from .check_loss import check_loss
from .problems import Layout, Problem
from .runners import Row, check_backend

__all__ = [
    "CASES",
    "Case",
    "Layout",
    "Mutant",
    "Problem",
    "Row",
    "bounds",
    "cases",
    "check_backend",
    "check_loss",
    "drivers",
    "mutants",
    "problems",
    "strategies",
]
