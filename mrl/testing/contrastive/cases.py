"""The cases of the contrastive loss: what is called, and what the specification says it must give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contrastive import nested_contrastive
from ..case import Case
from ..problems import Layout, Problem
from .bounds import nested_contrastive as bound
from .mutants import CONTRASTIVE
from .problems import DRAW


def differentiated(problem: Problem) -> list[Any]:
    """The arrays in the order of the gradients: anchors, positives, and negatives and a temperature if there are."""
    return [x for x in (problem.z, problem.positives, problem.negatives, problem.temperature) if x is not None]


def keywords(layout: Layout, arrays: Sequence[Any], constants: Sequence[Any]) -> dict[str, Any]:
    """What :func:`differentiated` and the constants of a problem are called by, but for the first two."""
    further = list(arrays[2:])
    found: dict[str, Any] = {"negatives": further.pop(0)} if layout.classes > layout.rows else {}
    found["temperature"] = further.pop(0) if further else layout.temperature
    return found | ({"exclude": constants[0]} if layout.excluding else {})


def excluded(problem: Problem) -> list[Any]:
    return [] if problem.exclude is None else [problem.exclude]


def _nested_contrastive(fused: bool) -> Case:
    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            return nested_contrastive(
                arrays[0],
                arrays[1],
                layout.nesting,
                **keywords(layout, arrays, constants),
                symmetric=layout.symmetric,
                similarity=layout.similarity,
                reduction=layout.reduction,
                fused=fused,
                chunk_rows=layout.chunk_rows,
            )

        return run

    return Case(
        "nested_contrastive" if fused else "nested_contrastive[fused=False]",
        function,
        bound,
        CONTRASTIVE,
        DRAW,
        head=False,
        differentiated=differentiated,
        constants=excluded,
        further_kernel="nested_contrastive",
    )


CONTRASTIVE_CASES = (_nested_contrastive(True), _nested_contrastive(False))
