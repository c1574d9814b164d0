"""Wrong contrastive losses, as people write them: each must break a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ... import spec
from ..case import Mutant
from ..cross_entropy.mutants import GRADIENT, UPSTREAM, mean_for_sum, reweighted, slice_off_by_one
from ..drivers import Result
from ..problems import Float, Problem, round_to
from .bounds import options_of


def _unit_embeddings(problem: Problem) -> Problem | None:
    """The whole embedding as a unit vector, and the dot products of its prefixes."""
    if problem.layout.similarity != "cosine":
        return None
    whole: dict[str, Any] = {
        name: round_to(spec.truncate(x, x.shape[-1]), problem.dtype)
        for name in ("z", "targets", "negatives")
        if (x := getattr(problem, name)) is not None
    }
    return replace(problem.with_layout(similarity="dot"), **whole)


def _squared_temperature(problem: Problem) -> Problem | None:
    if problem.temperature is None:
        squared = problem.layout.temperature**2
        return None if squared == 1 else problem.with_layout(temperature=squared)
    return replace(problem, temperature=round_to(problem.temperature**2, problem.dtype))


def _next_positive(problem: Problem) -> Problem | None:
    return replace(problem, targets=np.roll(problem.positives, 1, 0)) if problem.layout.rows > 1 else None


def _first_column_late(problem: Problem) -> Problem | None:
    if problem.layout.features < 2:
        return None
    rolled: dict[str, Any] = {name: np.roll(getattr(problem, name), 1, -1) for name in ("z", "targets")}
    negatives = None if problem.negatives is None else np.roll(problem.negatives, 1, -1)
    return replace(problem, negatives=negatives, **rolled)


def _all_included(problem: Problem) -> Problem | None:
    return None if problem.exclude is None else replace(problem, exclude=np.zeros_like(problem.exclude))


def _summed_directions(result: Result, problem: Problem) -> Result | None:
    if not problem.layout.symmetric:
        return None
    return result._replace(outputs=[2 * x for x in result.outputs])


def _recomputed(
    vectors: Callable[[Float, int, bool, bool], Float] = lambda x, dim, cosine, is_anchor: spec.truncate(
        x, dim, normalize=cosine
    ),
    rows: Callable[[Problem, Float], Float] = lambda problem, s: s,
    columns: Callable[[Problem, Float, Float], Float] = lambda problem, s, plain: s[:, : len(s)],
    applies: Callable[[Problem], bool] = lambda problem: True,
) -> Callable[[Result, Problem], Result | None]:
    """The loss of another kind of vectors, or over other candidates of a row or a column."""

    def change(result: Result, problem: Problem) -> Result | None:
        layout, options = problem.layout, options_of(problem)
        if not applies(problem) or not layout.rows:
            return None
        candidates = np.concatenate([problem.positives, *([] if problem.negatives is None else [problem.negatives])])
        temperatures: Any = np.broadcast_to(np.asarray(options["temperature"], np.float64), (len(layout.nesting),))
        levels = []
        for dim, temperature in zip(layout.nesting.dims, temperatures, strict=True):
            cosine = layout.similarity == "cosine"
            plain = vectors(problem.z, dim, cosine, True) @ vectors(candidates, dim, cosine, False).T / temperature
            s = plain if problem.exclude is None else np.where(problem.exclude, -np.inf, plain)
            losses = np.logaddexp.reduce(rows(problem, s), 1) - np.diagonal(s)
            if layout.symmetric:
                other = np.logaddexp.reduce(columns(problem, s, plain), 0) - np.diagonal(s)
                losses = (losses + other) / 2
            levels.append(losses if layout.reduction == "none" else losses.sum())
        found = np.stack(levels) / (layout.rows if layout.reduction == "mean" else 1)
        weights = np.asarray(layout.nesting.weights)
        return result._replace(outputs=[np.tensordot(weights, found, 1), np.where(weights == 0, np.nan, found.T).T])

    return change


def _only_anchors(x: Float, dim: int, cosine: bool, is_anchor: bool) -> Float:
    return spec.truncate(x, dim, normalize=cosine and is_anchor)


def _without_negatives(problem: Problem, s: Float) -> Float:
    return s[:, : len(s)]


def _without_its_own(problem: Problem, s: Float) -> Float:
    return np.where(np.eye(*s.shape) == 1, -np.inf, s)


CONTRASTIVE = (
    Mutant("normalised before slicing", _unit_embeddings, retraces=True),
    Mutant(
        "one side not normalised",
        result=_recomputed(_only_anchors, applies=lambda problem: problem.layout.similarity == "cosine"),
    ),
    Mutant("temperature applied twice", _squared_temperature, retraces=True),
    Mutant("the positive of the anchor before", _next_positive),
    Mutant("slice starts one late", _first_column_late),
    Mutant("slice off by one", slice_off_by_one, retraces=True),
    Mutant("both directions added up", result=_summed_directions),
    Mutant(
        "one direction only",
        result=_recomputed(
            columns=lambda problem, s, plain: np.diagonal(s)[None], applies=lambda problem: problem.layout.symmetric
        ),
    ),
    Mutant(
        "negatives left out of the sum",
        result=_recomputed(rows=_without_negatives, applies=lambda problem: problem.negatives is not None),
    ),
    Mutant("the positive left out of the sum", result=_recomputed(rows=_without_its_own)),
    Mutant("excluded candidates in the sum", _all_included),
    Mutant(
        "excluded anchors in the sums of columns",
        result=_recomputed(
            columns=lambda problem, s, plain: plain[:, : len(s)],
            applies=lambda problem: problem.layout.symmetric and problem.exclude is not None,
        ),
    ),
    Mutant("weight x 1.001", reweighted(lambda weight: 1.001 * weight), retraces=True),
    Mutant("mean over levels for sum", result=mean_for_sum),
    GRADIENT,
    UPSTREAM,
)
