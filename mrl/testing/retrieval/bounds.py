"""What a search must answer, and where rounding leaves it a choice.

A row's score is known up to a bound ``E``, which is valid for any order of summation: with ``m`` dimensions

- ``"dot"``: ``gamma_m |q|.|x|``;
- ``"cosine"``: ``gamma_{2m+16} |q'|.|x'|`` of the normalised prefixes. Either factor's norm is off by
  ``gamma_m / 2`` and a root, its quotient by two roundings, the root and the quotient of XLA by a few more; rows that
  are not normalised have a quotient of the score instead;
- ``"l2"``: ``gamma_{m+4} (2 |q|.|x| + ||x||^2 + ||q||^2)`` of a search, which expands the square, and
  ``gamma_{m+3} ||q - x||^2`` of a rerank, which does not.

The place of a row is decided where the scores before and after it are further away than the bounds of both, or all
scores are exact. The ``i``-th largest score moves by no more than the largest ``E`` of a query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ... import spec
from ...retrieval.prepared import SearchResult
from ...spec.retrieval import best
from ..problems import SMALLEST, UNIT_ROUNDOFF, Float, Problem
from ..rounding import Bounded, gamma


class Stage(NamedTuple):
    """What one stage must answer: a bound of zero for an index that is decided, infinity for one that is not."""

    result: SearchResult
    indices: Float
    scores: Float
    edge: np.ndarray  # whether the set of rows is decided


def search(problem: Problem) -> Bounded:
    """Indices and scores of a search."""
    return _bounded(stage(problem, 0))


def rerank(problem: Problem) -> Bounded:
    """Indices and scores of a rerank of given candidates."""
    return _bounded(stage(problem, 0, problem.labels))


def funnel_search(problem: Problem) -> Bounded:
    """Indices and scores of a funnel: undecided wherever the rows that a stage keeps are."""
    last = stage(problem, 0)
    known = last.edge
    for g in range(1, len(problem.layout.topk)):
        last = stage(problem, g, last.result.indices)
        sure = np.where(known, 0.0, np.inf)[..., None]
        last = last._replace(indices=last.indices + sure, scores=last.scores + sure)
        known = known & last.edge
    return _bounded(last)


def stage(problem: Problem, g: int, candidates: np.ndarray | None = None) -> Stage:
    """One stage of a search, of all rows or of candidates."""
    layout, rows = problem.layout, problem.targets
    assert rows is not None
    dim, k = layout.nesting.dims[g], layout.topk[g]
    scores = spec.retrieval_scores(problem.z, rows, dim=dim, metric=layout.metric)
    with np.errstate(invalid="ignore"):
        e = score_bound(problem, dim, expanded=candidates is None)
    if candidates is not None:
        among = np.zeros(scores.shape, bool)
        for place in np.ndindex(scores.shape[:-1]):
            among[(*place, candidates[place][candidates[place] >= 0])] = True
        scores = np.where(among, scores, np.nan)
    usable = ~np.isnan(scores)
    e = np.where(usable, e, 0.0)
    ordered = best(scores, min(k + 1, scores.shape[-1]) or 1)
    found = np.where(ordered.indices < 0, 0, ordered.indices)
    bounds = np.take_along_axis(e, found, -1) if e.shape[-1] else np.zeros(found.shape)
    with np.errstate(invalid="ignore"):
        gaps = ordered.scores[..., :-1] - ordered.scores[..., 1:]
    apart = (gaps > 2 * (bounds[..., :-1] + bounds[..., 1:])) | (bounds[..., :-1] + bounds[..., 1:] == 0)
    apart |= np.isneginf(ordered.scores[..., 1:])  # nothing comes after it
    result = best(scores, k)
    sure = np.ones((*result.indices.shape[:-1], k + 1), bool)
    width = min(k, apart.shape[-1])
    sure[..., 1 : width + 1] = apart[..., :width]
    decided = sure[..., :-1] & sure[..., 1:]
    worst = e.max(-1, initial=0.0)[..., None]
    u, least = UNIT_ROUNDOFF[problem.accumulation], SMALLEST[problem.accumulation]
    size = np.where(np.isfinite(result.scores), np.abs(result.scores), 0.0)
    return Stage(result, np.where(decided, 0.0, np.inf), worst + u * (size + worst) + least, sure[..., -1])


def score_bound(problem: Problem, dim: int, *, expanded: bool) -> Float:
    """``E`` of every score ``(..., N)``; zero where all of them are exact."""
    layout, rows = problem.layout, problem.targets
    assert rows is not None
    q, x = problem.z[..., None, :dim], rows[:, :dim]
    u = UNIT_ROUNDOFF[problem.accumulation]
    factor = 2 if problem.dtype == "float64" else 1
    if is_exact(problem, dim):
        return np.zeros((*problem.z.shape[:-1], len(rows)))
    if layout.metric == "dot":
        e = gamma(dim, u) * (np.abs(q) * np.abs(x)).sum(-1)
    elif layout.metric == "cosine":
        q, x = spec.truncate(problem.z, dim)[..., None, :], spec.truncate(rows, dim)
        e = gamma(2 * dim + 16, u) * (np.abs(q) * np.abs(x)).sum(-1)
    elif expanded:
        e = gamma(dim + 4, u) * (2 * (np.abs(q) * np.abs(x)).sum(-1) + np.square(x).sum(-1) + np.square(q).sum(-1))
    else:
        e = gamma(dim + 3, u) * np.square(q - x).sum(-1)
    return np.asarray(factor * e)


def is_exact(problem: Problem, dim: int) -> bool:
    """Whether every score is a number of float32 that no road to it rounds, so that equal ones are ties."""
    assert problem.targets is not None
    numbers = [x[..., :dim] for x in (problem.z, problem.targets)]
    numbers = [np.where(np.isnan(x), 0, x) for x in numbers]
    if problem.layout.metric != "cosine":
        return all(np.all(x == np.rint(x)) and np.all(np.abs(x) <= 64) for x in numbers)
    single = all(np.all((x != 0).sum(-1) <= 1) for x in numbers)
    return single and all(np.all(np.frexp(np.abs(x[x != 0]))[0] == 0.5) for x in numbers)


def _bounded(answer: Stage) -> Bounded:
    return {
        "indices": (answer.result.indices.astype(np.float64), answer.indices),
        "scores": (answer.result.scores, answer.scores),
    }
