"""The cases of cascades: their answers are discrete, and equal wherever rounding cannot decide them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...cascade.execute import cascade_exit, cascade_predict
from ..case import Case, Draw, Mutant
from ..problems import Layout, head_from
from .bounds import cascade
from .mutants import GIVEN_EMBEDDINGS, GIVEN_LOGITS, GIVEN_PROBABILITIES
from .problems import cascade_layouts, cascade_problem, pool, with_near_thresholds


def _case(name: str, given: str, mutants: tuple[Mutant, ...]) -> Case:
    predicts = given == "embeddings"

    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            assert layout.policy is not None
            if not predicts:
                return cascade_exit(arrays[0], layout.policy, logits=given == "logits")
            z, *leaves = arrays
            return cascade_predict(z, head_from(layout, leaves), layout.policy, chunk_rows=layout.chunk_rows)

        return run

    return Case(
        name,
        function,
        cascade,
        mutants,
        Draw(cascade_problem, cascade_layouts(given), pool(given), refined=with_near_thresholds),
        head=predicts,
        gradients=False,
        discrete=("labels", "level"),
        known_axes=0 if predicts else 1,
        further_kernel="cascade_predict" if predicts else "cascade_exit",
    )


CASCADES = (
    _case("cascade_exit", "probabilities", GIVEN_PROBABILITIES),
    _case("cascade_exit[logits=True]", "logits", GIVEN_LOGITS),
    _case("cascade_predict", "embeddings", GIVEN_EMBEDDINGS),
)
