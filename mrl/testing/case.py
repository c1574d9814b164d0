"""What a case of the proof is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from hypothesis import strategies as st

from ..heads import head_leaves
from .drivers import Result
from .problems import Layout, Problem
from .rounding import Bounded

Make: TypeAlias = Callable[[Layout, str, np.random.Generator, bool], Problem]
"""Numbers for a layout, in a dtype; whether with specials."""


SMALL = 10_000
"""Logits of a level, above which once through the pool is enough."""


@dataclass(frozen=True)
class Draw:
    """How a case draws its problems.

    ``pool`` is for code that compiles anew for every layout: few that stand for all. Each has its turn, and then come
    those that ``layouts`` draws, or under ``only_pool`` the small ones of the pool again. A problem's numbers all come
    from one seed: they are made smaller by :mod:`mrl.testing` itself.

    Example:
        >>> import mrl.testing
        >>> len(mrl.testing.CASES[0].drawn.pool) > 1
        True
    """

    make: Make
    layouts: st.SearchStrategy[Layout]
    pool: tuple[Layout, ...] = ()
    only_pool: bool = True
    refined: Callable[[Problem, np.random.Generator], Problem] = lambda problem, rng: problem  # what would trace anew

    def problems(self, dtype: str, *, traced: bool, specials: bool) -> st.SearchStrategy[Problem]:
        """Problems of layouts that are drawn, or for traced code of the small ones of the pool."""
        small = [layout for layout in self.pool if layout.rows * layout.classes <= SMALL]
        shapes = st.sampled_from(small) if traced and self.only_pool and small else self.layouts

        def made(layout: Layout, seed: int) -> Problem:
            rng = np.random.default_rng(seed)
            problem = self.make(layout, dtype, rng, specials)
            return problem if traced else self.refined(problem, rng)

        return st.builds(made, shapes, st.integers(0, 2**32 - 1))

    def each_pooled(self, dtype: str, *, specials: bool, seed: int | None) -> Iterator[Problem]:
        """One problem of every layout of the pool."""
        rng = np.random.default_rng(seed)
        for layout in self.pool:
            yield self.make(layout, dtype, rng, specials)


@dataclass(frozen=True)
class Mutant:
    """A mistake. ``problem`` or ``result`` gives ``None`` where the mistake makes no difference.

    ``retraces`` marks a mistake in what a traced function holds constant; traced modes leave it to eager ones.
    ``wide_range`` marks one that shows in numbers too small for float16 only.

    Example:
        >>> import mrl.testing
        >>> mrl.testing.Mutant("two classes swapped", result=lambda result, problem: None).retraces
        False
    """

    name: str
    problem: Callable[[Problem], Problem | None] = lambda problem: problem
    result: Callable[[Result, Problem], Result | None] = lambda result, problem: result
    retraces: bool = False
    wide_range: bool = False


@dataclass(frozen=True)
class Source:
    """How a case is written down as code.

    ``call`` gives an expression of the names ``z``, ``head``, ``nesting`` and ``constants``; ``imports`` are the
    statements that it needs beside those of mrl, NumPy and the framework.

    Example:
        >>> import mrl.testing
        >>> mrl.testing.case.Source(lambda layout: f"my_loss(z, {layout.classes})").call(mrl.testing.Layout(None))
        'my_loss(z, 4)'
    """

    call: Callable[[Layout], str]
    constants: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


class Diagnosis(NamedTuple):
    """What a refuted loss may have computed instead, and problems that tell these mistakes apart.

    ``mistakes`` maps names to ``total(problem, arrays)``, in NumPy, of which the imaginary part is the gradient's
    concern: a mistake is analytic in its arrays but for what it holds constant by ``.real``.
    """

    mistakes: Mapping[str, Callable[[Problem, list[Any]], Any]]
    problems: Callable[[str], list[Problem]]


@dataclass(frozen=True)
class Case:
    """One operation under proof.

    ``function(layout)`` gives what a driver runs, ``expected(problem)`` the values and bounds of its outputs
    and then of its gradients, in order; the first output is differentiated. ``narrow`` outputs come back in
    the dtype of ``z`` and not in that of accumulation. Without ``gradients`` nothing is differentiated.

    Example:
        >>> import mrl.testing
        >>> [case.name for case in mrl.testing.CASES][:3]
        ['truncate', 'truncate[normalize=False]', 'nested']
    """

    name: str
    function: Callable[[Layout], Any]
    expected: Callable[[Problem], Bounded]
    mutants: tuple[Mutant, ...]
    drawn: Draw
    head: bool = True
    differentiated: Callable[[Problem], list[Any]] | None = None  # instead of the embeddings and a head
    names: Callable[[Problem], list[str]] | None = None  # of these, in code
    constants: Callable[[Problem], list[Any]] = lambda problem: []
    narrow: bool = False
    gradients: bool = True
    outputs_checked: bool = True  # how many there are, and their dtypes
    specials: bool = False  # may be drawn with classes that a bias excludes, and NaN in rows that are ignored
    discrete: tuple[str, ...] = ()  # integer outputs; an infinite bound where the answer is undecided
    parameters: Callable[[Problem], list[Any]] = lambda problem: []  # further constants, which have no rows
    known_axes: int = 0  # leading axes of what is differentiated whose size a graph has to know
    further_kernel: str | None = None  # what a plug-in may lack, and then is not asked for
    admits: Callable[[Problem], bool] = lambda problem: True  # what may be made of a problem to make it smaller
    source: Source | None = None  # how a counter-example is written down as code
    diagnosis: Diagnosis | None = None  # what a refuted implementation may have computed instead

    def problems(self, dtype: str, *, traced: bool) -> st.SearchStrategy[Problem]:
        """The problems of this case; those of traced code have layouts from a small pool."""
        return self.drawn.problems(dtype, traced=traced, specials=self.specials)

    def each_pooled(self, dtype: str, seed: int | None) -> Iterator[Problem]:
        """One problem of every layout of that pool."""
        return self.drawn.each_pooled(dtype, specials=self.specials, seed=seed)

    def arrays(self, problem: Problem) -> list[Any]:
        """What is differentiated: as a rule the embeddings, then the arrays of the head."""
        if self.differentiated is not None:
            return self.differentiated(problem)
        return [problem.z, *head_leaves(problem.head)] if self.head else [problem.z]
