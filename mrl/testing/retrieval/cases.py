"""The cases of searches: indices are discrete, and equal wherever rounding cannot decide them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...retrieval.search import funnel_search, prepare_database, rerank, search
from ..case import Case, Draw, Mutant
from ..problems import Layout, Problem
from ..rounding import Bounded
from . import bounds
from .mutants import FUNNEL, RERANK, SEARCH
from .problems import pool, search_layouts, search_problem


def _case(
    name: str,
    function: Callable[[Layout, Any, Any, list[Any]], Any],
    expected: Callable[[Problem], Bounded],
    mutants: tuple[Mutant, ...],
    stages: int,
) -> Case:
    def made(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            database, *rest = constants
            if layout.prepared:
                database = prepare_database(database, layout.nesting.dims, metric=layout.metric)
            result = function(layout, arrays[0], database, rest)
            return result.indices, result.scores

        return run

    reranks = name == "rerank"
    return Case(
        name,
        made,
        expected,
        mutants,
        Draw(search_problem, search_layouts(stages), pool(stages)),
        head=False,
        constants=lambda problem: [problem.targets, problem.labels][: 1 + reranks],
        gradients=False,
        discrete=("indices",),
        further_kernel="rerank" if stages > 1 or reranks else "search",
    )


RETRIEVAL = (
    _case(
        "search",
        lambda layout, queries, database, _: search(
            queries,
            database,
            k=layout.topk[0],
            dim=layout.nesting.dims[0],
            metric=layout.metric,
            tile=layout.chunk_rows,
        ),
        bounds.search,
        SEARCH,
        1,
    ),
    _case(
        "rerank",
        lambda layout, queries, database, rest: rerank(
            queries, database, rest[0], k=layout.topk[0], dim=layout.nesting.dims[0], metric=layout.metric
        ),
        bounds.rerank,
        RERANK,
        1,
    ),
    _case(
        "funnel_search",
        lambda layout, queries, database, _: funnel_search(
            queries, database, dims=layout.nesting.dims, shortlists=layout.topk, metric=layout.metric
        ),
        bounds.funnel_search,
        FUNNEL,
        3,
    ),
)
