"""The case of a contrastive loss that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ...heads import NestedLoss
from ...nesting import Nesting
from ..case import SMALL, Case, Draw, Source
from ..problems import Layout, Problem
from .bounds import nested_contrastive as bound
from .cases import differentiated, excluded, keywords
from .problems import POOL, layouts, problem

OPTIONS = ("symmetric", "negatives", "exclude", "temperature", "similarity", "reduction")
"""What such a loss may take by name; what it does not, it is not given."""

PLAIN = ("symmetric", "similarity", "reduction")


def names_of(layout: Layout) -> list[str]:
    """Of what is differentiated, in order."""
    further = ["negatives"] * (layout.classes > layout.rows) + ["temperature"] * (layout.temperature <= 0)
    return ["z", "positives", *further]


def _has_no_zero_prefix(problem: Problem) -> bool:
    """Where one is zero its cosine is not defined, and a gradient is a matter of taste."""
    first = problem.layout.nesting.dims[0]
    sides = [x for x in (problem.z, problem.positives, problem.negatives) if x is not None]
    return all(np.any(x[:, :first], -1).all() for x in sides)


def contrastive_case(
    loss: Callable[..., Any],
    name: str,
    options: tuple[str, ...],
    nesting: Nesting | None,
    *,
    pooled: bool,
    imported: tuple[str, str],
    check: Callable[[Any, tuple[int, ...]], None],
) -> Case:
    """``loss(anchors, positives, nesting)`` with the named ``options``; ``check`` refuses what is no loss."""

    def given(layout: Layout, arrays: Sequence[Any], constants: Sequence[Any]) -> dict[str, Any]:
        further = {key: x for key, x in keywords(layout, arrays, constants).items() if key in options}
        return further | {key: getattr(layout, key) for key in PLAIN if key in options}

    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            result = loss(*arrays[:2], layout.nesting, **given(layout, arrays, constants))
            check(result, layout.lead if layout.reduction == "none" else ())
            return list(result) if isinstance(result, NestedLoss) else [result]

        return run

    def suited(layout: Layout) -> Layout:
        """Of the pool, without what the loss does not take."""
        rows = max(1, layout.rows)
        further = layout.classes - layout.rows if "negatives" in options else 0
        plain = Layout(nesting or layout.nesting, width=max(layout.width, (nesting or layout.nesting).width))
        return replace(
            plain,
            lead=(rows,),
            classes=rows + further,
            temperature=layout.temperature if "temperature" in options else 0.05,
            excluding=layout.excluding and "exclude" in options,
            **{key: getattr(layout, key) for key in PLAIN if key in options},
        )

    def make(layout: Layout, dtype: str, rng: np.random.Generator, specials: bool) -> Problem:
        return problem(layout, dtype, rng, ordinary=True)

    pool = tuple(dict.fromkeys(map(suited, POOL)))
    small = [layout for layout in pool if layout.rows * layout.classes <= SMALL]
    drawn = st.sampled_from(small) if pooled else layouts(options=options, how=False).map(suited)
    statement, expression = imported

    def call(layout: Layout) -> str:
        found = [f"{key}={getattr(layout, key)!r}" for key in PLAIN if key in options]
        named = keywords(layout, names_of(layout), ["exclude"])
        found += [f"{key}={value}" for key, value in named.items() if key in options]
        return f"{expression}({', '.join(['z, positives, nesting', *found])})"

    return Case(
        name,
        function,
        bound,
        (),
        Draw(make, drawn, pool if pooled else (), only_pool=False),
        head=False,
        differentiated=differentiated,
        names=lambda problem: names_of(problem.layout),
        constants=excluded,
        outputs_checked=False,
        admits=lambda problem: nesting in (None, problem.layout.nesting) and _has_no_zero_prefix(problem),
        source=Source(call, ("exclude",), (statement,)),
    )
