"""From a problem on which a contrastive loss is wrong to a small one with round numbers, on which it still is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...nesting import Nesting
from ..problems import Problem

TRIALS, TRIALS_COMPILED = 600, 60
"""Of a smaller problem each; where a framework compiles, a trial costs more."""

ARRAYS = ("z", "targets", "negatives", "temperature", "upstream")


def smallest(problem: Problem, refuted: Callable[[Problem], bool], *, compiled: bool = False) -> Problem:
    """The smallest problem that greedy steps from ``problem`` come to, with every one of them ``refuted``."""
    left, found = TRIALS_COMPILED if compiled else TRIALS, True
    while found:
        found = False
        for candidate in _simpler(problem):
            if left == 0:
                return problem
            left -= 1
            if refuted(candidate):
                problem, found = candidate, True
                break
    return problem


def _simpler(problem: Problem) -> Iterator[Problem]:
    """Without options first, then with fewer of everything, then with rounder numbers."""
    layout = problem.layout
    if layout.symmetric:
        yield problem.with_layout(symmetric=False)
    if problem.exclude is not None:
        yield replace(problem, exclude=None).with_layout(excluding=False)
    if layout.reduction != "mean":
        above = np.ones(()) if layout.reduction == "none" else problem.upstream
        yield replace(problem, upstream=above).with_layout(reduction="mean")
    if layout.chunk_rows is not None:
        yield problem.with_layout(chunk_rows=None)
    if set(layout.nesting.weights) != {1.0}:
        yield problem.with_layout(nesting=Nesting(layout.nesting.dims))
    yield from filter(None, (_without_level(problem, g) for g in range(len(layout.nesting))))
    yield from filter(None, (_without_row(problem, i) for i in range(layout.rows)))
    yield from (_without_negative(problem, j) for j in range(layout.classes - layout.rows))
    yield from filter(None, (_without_feature(problem, k) for k in range(layout.features)))
    for name in ARRAYS:
        values = getattr(problem, name)
        if values is None:
            continue
        plainest = np.ones_like(values) if name in ("temperature", "upstream") else np.zeros_like(values)
        for rounded in (plainest, np.rint(values), np.rint(8 * values) / 8):
            if name == "temperature" and not np.all(rounded > 0):
                continue
            if _digits(rounded) < _digits(values):
                yield replace(problem, **{name: rounded})


def _digits(values: Any) -> int:
    return sum(len(f"{x:.9g}") for x in np.asarray(values, np.float64).flat)


def _without_level(problem: Problem, g: int) -> Problem | None:
    nesting = problem.layout.nesting
    kept = [h for h in range(len(nesting)) if h != g]
    weights = [nesting.weights[h] for h in kept]
    if not any(weights):
        return None
    temperature = problem.temperature
    if temperature is not None and temperature.ndim:
        temperature = temperature[kept]
    smaller = Nesting([nesting.dims[h] for h in kept], weights)
    return replace(problem, temperature=temperature).with_layout(nesting=smaller, width=problem.layout.features)


def _without_row(problem: Problem, i: int) -> Problem | None:
    """An anchor and its positive."""
    if problem.layout.rows < 2:
        return None
    exclude = problem.exclude
    if exclude is not None:
        exclude = np.delete(np.delete(exclude, i, 0), i, 1)
    above = np.delete(problem.upstream, i) if problem.upstream.ndim else problem.upstream
    less = replace(problem, z=np.delete(problem.z, i, 0), targets=np.delete(problem.positives, i, 0))
    layout = problem.layout
    return replace(less, exclude=exclude, upstream=above).with_layout(
        lead=(layout.rows - 1,), classes=layout.classes - 1
    )


def _without_negative(problem: Problem, j: int) -> Problem:
    layout, exclude = problem.layout, problem.exclude
    if exclude is not None:
        exclude = np.delete(exclude, layout.rows + j, 1)
    negatives: Any = np.delete(np.asarray(problem.negatives), j, 0) if layout.classes - layout.rows > 1 else None
    return replace(problem, negatives=negatives, exclude=exclude).with_layout(classes=layout.classes - 1)


def _without_feature(problem: Problem, k: int) -> Problem | None:
    layout = problem.layout
    dims = [m - (k < m) for m in layout.nesting.dims]
    if dims[0] == 0 or len(set(dims)) < len(dims):
        return None
    cut = {name: np.delete(x, k, 1) for name in ARRAYS[:3] if (x := getattr(problem, name)) is not None}
    return replace(problem, **cut).with_layout(nesting=Nesting(dims, layout.nesting.weights), width=layout.features - 1)
