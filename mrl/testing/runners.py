"""Runs the cases of the proof on a backend, and says what was proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from ..checks import check_device, check_integer
from ..dispatch import backend_named, lacks
from . import trial
from .case import Case, Mutant
from .cases import CASES
from .comparison import compare
from .counterexample import counter_example
from .drivers import Driver, Result, driver_of
from .problems import Layout, Problem

EXTRA_SEARCHES = 8
LEAST_EXTRA_EXAMPLES = 50
MOST_UNDECIDED = 0.01  # of the discrete answers of a proof, those that rounding may decide either way
TRACED_SHARE = 4  # traced examples cost more and vary less: this part of the examples


@dataclass(frozen=True)
class Row:
    """What was proved of one operation in one dtype and mode.

    ``worst`` is the largest error as a share of its bound, found in the output ``worst_output``. ``undecided`` is
    the share of discrete answers that rounding may decide either way, and that were not judged. ``killed`` and
    ``survived`` name the mutants. ``gradients`` says whether gradients were proved, or values alone; ``layouts`` counts
    the different layouts, and ``nonzero`` the examples with a gradient that is not zero.

    Example:
        >>> import mrl.testing
        >>> (row,) = mrl.testing.check_backend("numpy", ops=["truncate"], dtypes=["float64"], examples=20)
        >>> row.op, row.mode, row.worst <= 1, row.survived
        ('truncate', 'eager', True, ())
    """

    op: str
    dtype: str
    mode: str
    examples: int
    worst: float
    worst_output: str
    killed: tuple[str, ...]
    survived: tuple[str, ...]
    undecided: float = 0.0
    gradients: bool = False
    layouts: int = 0
    nonzero: int = 0


@dataclass
class Tally:
    """What one run has seen so far."""

    examples: int = 0
    worst: float = 0.0
    worst_output: str = "-"
    killed: set[str] = field(default_factory=set)
    answers: int = 0
    undecided: int = 0
    gradients: bool = False
    failed: Problem | None = None
    layouts: set[Layout] = field(default_factory=set)
    nonzero: int = 0

    @property
    def undecided_share(self) -> float:
        return self.undecided / max(self.answers, 1)


def check_backend(
    name: str,
    *,
    device: Any = None,
    dtypes: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    specials: bool = False,
    examples: int = 50,
    random_seed: int | None = None,
) -> list[Row]:
    """Prove a backend equal to the specification, within forward error bounds.

    For every operation, dtype and mode: draws problems, compares values and gradients with the float64
    specification (``|x - spec| <= E`` with the bounds ``E`` of :mod:`mrl.testing.bounds`), and checks that
    every mutant of :mod:`mrl.testing.mutants` breaks a bound. Backends without a driver of their own
    (NumPy, plug-ins) are checked eagerly and by value.

    Args:
        name: a built-in backend's name, or a plug-in's.
        device: where the arrays live, in the framework's words; ``None`` for its default.
        dtypes: of ``"float16"``, ``"bfloat16"``, ``"float32"``, ``"float64"``; ``None`` for all it has.
        modes: of the backend's modes (``"eager"``; ``"compile"``; ``"jit"``; ``"graph"``, ``"xla"``);
            ``None`` for all.
        ops: names of :data:`mrl.testing.CASES`; ``None`` for all that the backend has.
        specials: draw ignored rows that hold NaN, and biases of minus infinity, too. The built-in backends stand it.
        examples: problems per operation, dtype and eager mode; a quarter of them in traced modes.
        random_seed: draws the same problems again.

    Returns:
        One :class:`Row` per operation, dtype and mode.

    Raises:
        AssertionError: a bound is broken, with the smallest problem found; or a mutant survived.
        ValueError: an unknown name, device, dtype, mode or operation, or none of them.
        ImportError: the backend cannot be imported.

    Example:
        >>> import mrl.testing
        >>> rows = mrl.testing.check_backend("numpy", ops=["truncate"], dtypes=["float32"], examples=20)
        >>> rows[0].op, rows[0].worst <= 1, rows[0].survived
        ('truncate', True, ())
    """
    examples = check_integer("examples", examples, at_least=1)
    driver = driver_of(name)
    check_device("device", backend_named(name), device)
    rows = []
    for case in _chosen("ops", ops, {case.name: case for case in cases_of(name)}):
        case = replace(case, specials=specials and case.specials)
        for dtype in _chosen("dtypes", dtypes, {dtype: dtype for dtype in driver.dtypes}):
            for mode in _chosen("modes", modes, {mode: mode for mode in driver.modes}):
                rows.append(prove(case, driver, mode, dtype, device=device, examples=examples, random_seed=random_seed))
    return rows


def cases_of(name: str) -> list[Case]:
    """The cases that a backend can be asked for: a plug-in may lack further kernels."""
    return [case for case in CASES if case.further_kernel is None or not lacks(name, case.further_kernel)]


def prove(
    case: Case,
    driver: Driver,
    mode: str,
    dtype: str,
    *,
    device: Any = None,
    examples: int = 50,
    random_seed: int | None = None,
) -> Row:
    """Prove one case; :func:`check_backend` does so for all of them."""
    traced = mode != "eager"
    if traced:
        examples = max(12, examples // TRACED_SHARE)
    pooled = traced or driver.name == "jax"  # which, eager, compiles its kernels for every new shape too
    mutants = [mutant for mutant in case.mutants if not ((pooled if case.discrete else traced) and mutant.retraces)]
    mutants = [mutant for mutant in mutants if not (dtype == "float16" and mutant.wide_range)]
    if not driver.gradients:
        mutants = [mutant for mutant in mutants if not mutant.name.startswith(("gradient", "another upstream"))]
    tally = Tally()

    what = f"{case.name} on {driver.name} ({mode}, {dtype})"

    def run(problem: Problem) -> Result:
        return trial.run(case, driver, mode, problem, device)

    def example(problem: Problem) -> None:
        tally.failed = problem  # until nothing is wrong with it
        expected = trial.expected(case, problem)
        result = run(problem)
        share, output = compare(expected, result)
        tally.examples += 1
        tally.layouts.add(problem.layout)
        if result.gradients is not None:
            tally.gradients = True
            tally.nonzero += any(x is not None and np.any(x) for x in result.gradients)
        for discrete in case.discrete:
            tally.answers += expected[discrete][1].size
            tally.undecided += int(np.isinf(expected[discrete][1]).sum())
        if not share <= 1:
            raise AssertionError(f"{what}: {output} is {share:.3g} times its error bound away from the specification")
        if case.outputs_checked:
            trial.check_outputs(case, problem, expected, result)
        tally.failed = None
        if share > tally.worst:
            tally.worst, tally.worst_output = share, output
        for mutant in mutants:
            if mutant.name not in tally.killed and trial.dies(mutant, case, driver, mode, problem, expected, device):
                tally.killed.add(mutant.name)

    strategy = case.problems(dtype, traced=pooled)

    def shown(attempt: Callable[[], None]) -> None:
        try:
            attempt()
        except Exception:
            found = tally.failed and counter_example(what, case, driver, tally.failed, run, device, compiled=pooled)
            if not found:  # what check_outputs found, say
                raise
            raise found from None

    def each_layout() -> None:
        for problem in case.each_pooled(dtype, random_seed):
            example(problem)

    def search(examples: int, random_seed: int | None) -> None:
        shown(lambda: _search(example, strategy, examples, random_seed, shrink=bool(case.discrete)))

    if pooled:  # every layout, before luck has its say
        shown(each_layout)
    if examples > tally.examples:
        search(examples - tally.examples, random_seed)
    survived = _survivors(mutants, tally)
    for extra in range(EXTRA_SEARCHES):
        # Some mistakes show in few problems only; more problems are right to draw before saying that none does.
        # And one undecided answer among few is no large share yet.
        if not survived and tally.undecided_share <= MOST_UNDECIDED:
            break
        search(max(examples, LEAST_EXTRA_EXAMPLES), (random_seed or 0) + extra + 1)
        survived = _survivors(mutants, tally)
    if survived:
        raise AssertionError(
            f"{what}: these mutants broke no bound in {tally.examples} "
            f"examples: {', '.join(survived)}; the proof has no power over them"
        )
    undecided = tally.undecided_share
    if undecided > MOST_UNDECIDED:
        raise AssertionError(
            f"{what}: {undecided:.1%} of the answers are undecided by the "
            f"bounds, more than {MOST_UNDECIDED:.0%}; the proof says too little"
        )
    killed = tuple(sorted(tally.killed))
    seen = (tally.examples, tally.worst, tally.worst_output, killed, survived, undecided, tally.gradients)
    return Row(case.name, dtype, mode, *seen, len(tally.layouts), tally.nonzero)


def _survivors(mutants: list[Mutant], tally: Tally) -> tuple[str, ...]:
    return tuple(mutant.name for mutant in mutants if mutant.name not in tally.killed)


def _search(example: Any, strategy: Any, examples: int, random_seed: int | None, *, shrink: bool) -> None:
    """With Hypothesis's own way of making problems smaller only where ``mrl.testing.minimize`` has none."""
    phases = (Phase.explicit, Phase.generate, *((Phase.shrink,) if shrink else ()))
    draw: Callable[[Any], Any] = given(strategy)
    configure = settings(
        max_examples=examples,
        phases=phases,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,  # the smallest problem of one is what is promised
        suppress_health_check=list(HealthCheck),
    )
    test = configure(draw(example))
    if random_seed is not None:
        test = seed(random_seed)(test)
    test()


def _chosen(argument: str, names: Sequence[str] | None, known: dict[str, Any]) -> list[Any]:
    if names is None:
        return list(known.values())
    if not names:
        raise ValueError(f"{argument}: expected at least one of {tuple(known)}, got none; leave it out for all")
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: expected names of {tuple(known)}, got {name!r}; choose from these")
    return [known[name] for name in names]
