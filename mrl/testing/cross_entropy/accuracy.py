"""The case of :func:`mrl.nested_accuracy`: logits are given, so that every answer is decided, and ties are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ... import accuracy, spec
from ...heads import TiedHead
from ...nesting import Nesting
from ..case import Case, Draw, Mutant
from ..drivers import Result
from ..problems import UNIT_ROUNDOFF, Float, Layout, Problem
from ..rounding import Bounded, gamma
from .problems import LARGE_CLASSES, LARGE_ROWS

POOL = (
    Layout(Nesting((1,)), (5,), classes=3, topk=(1,), given="logits"),
    Layout(Nesting((1, 2, 3)), (2, 3), classes=6, topk=(1, 2, 5), ignore_index=-100, given="logits"),
    Layout(Nesting((1, 2)), (), classes=2, topk=(2, 1), given="logits"),
    Layout(Nesting((1, 2)), (0,), classes=4, topk=(1, 3), ignore_index=1, given="logits"),
    Layout(Nesting((1, 2)), (7,), classes=1, topk=(1, 4), given="logits"),
    Layout(
        Nesting((1, 2)), (LARGE_ROWS,), classes=LARGE_CLASSES, topk=(1, LARGE_CLASSES // 2), ignore_index=0,
        given="logits",
    ),
)  # fmt: skip


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    large = draw(st.integers(1, 16)) == 16
    return Layout(
        Nesting(range(1, 1 + draw(st.integers(1, 4)))),
        (LARGE_ROWS,) if large else draw(st.sampled_from(((5,), (12,), (3, 4), (1,), (), (0,)))),
        classes=LARGE_CLASSES if large else draw(st.integers(1, 6)),
        ignore_index=draw(st.sampled_from((None, -100, 0, 1))),
        topk=tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True))),
        given="logits",
        strided=draw(st.booleans()),
    )


def problem(layout: Layout, dtype: str, rng: np.random.Generator, specials: bool) -> Problem:
    """Logits of few values, so that many are equal; now and then one is NaN or infinite."""
    most = -4 if rng.random() < 0.1 else 4  # all are equal, or many
    z = rng.integers(-4, most + 1, (len(layout.nesting), *layout.lead, layout.classes)) / 4
    if z.size and rng.random() < 0.5:
        z[tuple(rng.integers(size) for size in z.shape)] = rng.choice((np.nan, np.inf, -np.inf))
    labels = rng.integers(0, layout.classes, layout.lead)
    if layout.ignore_index is not None:
        labels = np.where(rng.random(layout.lead) < 0.25, layout.ignore_index, labels)
    return Problem(layout, dtype, z, TiedHead(np.zeros((0, 0))), labels, np.zeros(()))


def bound(problem: Problem) -> Bounded:
    """A count is exact; its share is one division."""
    layout = problem.layout
    value = spec.nested_accuracy(problem.z, problem.labels, topk=layout.topk, ignore_index=layout.ignore_index)
    return {"accuracy": (value, gamma(2, UNIT_ROUNDOFF[problem.accumulation]) * value)}


def _rank(problem: Problem) -> tuple[Float, Float, np.ndarray]:
    """Of the label: how many logits are larger, how many equal ones come before and after it, and rows in use."""
    layout, z = problem.layout, problem.z
    used = np.ones(layout.lead, bool) if layout.ignore_index is None else problem.labels != layout.ignore_index
    safe = np.where(used, problem.labels, 0)[..., None]
    own = np.take_along_axis(z, np.broadcast_to(safe, (*z.shape[:-1], 1)), -1)
    classes = np.arange(layout.classes)
    larger = np.where(np.isnan(z).any(-1), layout.classes, (z > own).sum(-1))
    equal = np.stack([((z == own) & (classes < safe)).sum(-1), ((z == own) & (classes > safe)).sum(-1)])
    return larger, equal, used


def _mistaken(
    right: Callable[[Any, Any, int], Any] = lambda larger, equal, k: larger + equal[0] < k,
    count: Callable[[np.ndarray], Any] = lambda used: used.sum(),
) -> Callable[[Result, Problem], Result | None]:
    def change(result: Result, problem: Problem) -> Result | None:
        larger, equal, used = _rank(problem)
        hits = [(used & right(larger, equal, k)).reshape(len(larger), -1).sum(-1) for k in problem.layout.topk]
        return result._replace(outputs=[np.stack(hits, -1) / max(1, count(used))])

    return change


MUTANTS = (
    Mutant("ties to the highest index", result=_mistaken(lambda larger, equal, k: larger + equal[1] < k)),
    Mutant("ties are right", result=_mistaken(lambda larger, equal, k: larger < k)),
    Mutant("ties are wrong", result=_mistaken(lambda larger, equal, k: larger + equal.sum(0) < k)),
    Mutant("one more than k", result=_mistaken(lambda larger, equal, k: larger + equal[0] < k + 1)),
    Mutant("ignored rows counted", result=_mistaken(count=lambda used: used.size)),
)


def _function(layout: Layout) -> Any:
    def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
        return [accuracy.nested_accuracy(arrays[0], constants[0], topk=layout.topk, ignore_index=layout.ignore_index)]

    return run


ACCURACY = Case(
    "nested_accuracy",
    _function,
    bound,
    MUTANTS,
    Draw(problem, layouts(), POOL),
    head=False,
    constants=lambda problem: [problem.labels],
    gradients=False,
    known_axes=1,
    further_kernel="nested_accuracy",
)
