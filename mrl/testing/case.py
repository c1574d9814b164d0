"""What a case of the proof is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from ..heads import head_leaves
from .bounds import Bounded
from .mutants import Mutant
from .problems import Layout, Problem
from .strategies import TRACED_LAYOUTS, layouts, problems


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
    upstream: str
    options: tuple[str, ...] = ()
    head: bool = True
    constants: Callable[[Problem], list[Any]] = lambda problem: []
    narrow: bool = False
    seen: Callable[[Problem], Problem] = lambda problem: problem  # what the case uses of a drawn problem
    layouts: st.SearchStrategy[Layout] | None = None
    drawn: Callable[[str, bool], st.SearchStrategy[Problem]] | None = None  # of a dtype and of traced code
    gradients: bool = True
    outputs_checked: bool = True  # how many there are, and their dtypes
    specials: bool = False  # may be drawn with classes that a bias excludes, and NaN in rows that are ignored
    discrete: tuple[str, ...] = ()  # integer outputs; an infinite bound where the answer is undecided
    known_axes: int = 0  # leading axes of what is differentiated whose size a graph has to know
    further_kernel: str | None = None  # what a plug-in may lack, and then is not asked for

    def problems(self, dtype: str, *, traced: bool) -> st.SearchStrategy[Problem]:
        """The problems of this case; those of traced code have layouts from a small pool."""
        if self.drawn is not None:
            return self.drawn(dtype, traced)
        drawn = self.layouts
        if drawn is None:
            drawn = st.sampled_from(TRACED_LAYOUTS) if traced else layouts(options=self.options, wide=True)
        return problems(drawn, dtype, self.upstream, self.specials).map(self.seen)

    def arrays(self, problem: Problem) -> list[Any]:
        """What is differentiated: the embeddings, then the arrays of the head."""
        return [problem.z, *head_leaves(problem.head)] if self.head else [problem.z]
