"""The cases of prefixes, logits and losses: what is called, and what the specification says it must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ... import losses
from ...checks import dtype_name
from ...dispatch import backend_of
from ..case import Case
from ..problems import HALVES, Layout, Problem, head_from
from ..rounding import Bounded
from . import bounds
from .mutants import CROSS_ENTROPY, LOGITS, TRUNCATE
from .problems import HOW, PLAIN_LAYOUTS, TRACED_LAYOUTS, WEIGHTED, drawn

OPTIONS = ("label_smoothing", "ignore_index", "reduction", "leading", "chunk_rows", "soft")
LYING = ("strided", "twice")
EMBEDDING_LAYOUTS = tuple(replace(layout, frozen=()) for layout in PLAIN_LAYOUTS if layout.classes != 3)


def given(problem: Problem, *names: str) -> list[Any]:
    """Those of the named weights that a problem has."""
    return [getattr(problem, name) for name in names if name in problem.layout.weighted]


def _truncate(normalize: bool) -> Case:
    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            return [losses.truncate(arrays[0], layout.nesting.dims[0], normalize=normalize)]

        return run

    def prefix_upstream(problem: Problem) -> Problem:
        return Problem(**{**vars(problem), "upstream": problem.upstream[..., : problem.layout.nesting.dims[0]]})

    def expected(problem: Problem) -> Bounded:
        return bounds.truncate(problem, problem.upstream.shape[-1], normalize=normalize)

    name = "truncate" if normalize else "truncate[normalize=False]"
    return Case(
        name,
        function,
        expected,
        TRUNCATE if normalize else TRUNCATE[:1],
        drawn("embedding", ("leading", *LYING), prefix_upstream, pool=EMBEDDING_LAYOUTS),
        head=False,
        narrow=True,
    )


def _nested_logits() -> Case:
    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            z, *leaves = arrays
            return [losses.nested_logits(z, head_from(layout, leaves), layout.nesting)]

        return run

    draw = drawn("logits", ("leading", *HOW), pool=PLAIN_LAYOUTS)
    return Case("nested_logits", function, bounds.nested_logits, LOGITS, draw, specials=True)


def _nested_cross_entropy(fused: bool) -> Case:
    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            z, *leaves = arrays
            labels, *weights = constants
            return losses.nested_cross_entropy(
                z,
                head_from(layout, leaves),
                labels,
                layout.nesting,
                label_smoothing=layout.label_smoothing,
                ignore_index=layout.ignore_index,
                reduction=layout.reduction,
                fused=fused,
                chunk_rows=layout.chunk_rows,
                **dict(zip(layout.weighted, weights, strict=True)),
            )

        return run

    return Case(
        "nested_cross_entropy" if fused else "nested_cross_entropy[fused=False]",
        function,
        partial(bounds.nested_cross_entropy, scaled=fused),
        CROSS_ENTROPY,
        drawn("loss", (*OPTIONS, *WEIGHTED, *HOW), pool=TRACED_LAYOUTS),
        constants=lambda problem: [problem.labels, *given(problem, "sample_weight")],
        parameters=lambda problem: given(problem, "class_weight", "level_weights"),
        specials=True,
    )


def _ends(x: Any) -> Any:
    if not hasattr(type(x), "__mul__"):  # a plug-in's array may have no arithmetic: the loss is the caller's matter
        x = backend_of({"x": x}).to_numpy(x, blocking=True)
    x = _wide(x)
    return x[..., 0] * x[..., -1]


def _wide(x: Any) -> Any:
    """Half precision cast up, as each framework says it: a product in half precision would be the case's own error."""
    if dtype_name(x) not in HALVES:
        return x
    if hasattr(x, "float"):
        return x.float()
    if hasattr(x, "astype"):
        return x.astype(backend_of({"x": x}).from_numpy(np.ones(()), dtype="float32", device=None).dtype)
    import tensorflow as tf

    return tf.cast(x, tf.float32)


def _nested() -> Case:
    """``nested`` around the product of a prefix's first and last entries."""

    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            return [losses.nested(_ends, layout.nesting, normalize=True)(arrays[0])]

        return run

    def only_embeddings(problem: Problem) -> Problem:
        return Problem(**{**vars(problem), "upstream": problem.upstream[..., 0]})

    return Case(
        "nested",
        function,
        bounds.nested_ends,
        TRUNCATE[:2],
        drawn("embedding", ("leading", *LYING), only_embeddings, pool=EMBEDDING_LAYOUTS),
        head=False,
    )


CROSS_ENTROPY_CASES = (
    _truncate(True),
    _truncate(False),
    _nested(),
    _nested_logits(),
    _nested_cross_entropy(True),
    _nested_cross_entropy(False),
)
