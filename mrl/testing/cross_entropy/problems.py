"""Problems of prefixes, logits and losses: small shapes, where bounds are tight and search is quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ...heads import Head, TiedHead
from ...nesting import Nesting
from ..case import Draw
from ..drawing import WIDER, nestings
from ..problems import Float, Layout, Problem, head_from, leaf_shapes, round_to

FACTORS = (1.0, 1.0, 2.0**-33, 2.0**-38, 2.0**-41, 2.0**-46)
"""Embeddings that are normalised are scaled by these: rows on both sides of the smallest norm, 1e-12."""

TRACED_LAYOUTS = (
    Layout(Nesting((2, 40), (1.0, 0.5)), (3,)),
    Layout(Nesting((1, 2, 4), (0.5, 1.0, 2.0)), (2, 3), 6, 5, label_smoothing=0.1, ignore_index=-100, chunk_rows=4),
    Layout(Nesting((3, 4), (2.0, 0.3)), (5,), tied=False, reduction="sum", ignore_index=1),
    Layout(Nesting((2, 3, 7)), (4,), 8, 3, tied=False, bias=False, label_smoothing=0.2, chunk_rows=3),
    Layout(Nesting((1, 6), (1.5, 1.0)), (2, 2), bias=False, reduction="none", label_smoothing=0.1),
    Layout(Nesting((4,)), (6,), 4, 6, reduction="none", ignore_index=0, chunk_rows=4),
    Layout(Nesting((1, 3), (2.0, 0.5)), (), classes=2, label_smoothing=1.0),
    Layout(Nesting((2, 3)), (0,), 4, 1, ignore_index=-100),
    Layout(Nesting((1, 2)), (1,), classes=1, tied=False, label_smoothing=0.5, reduction="none"),
)
"""The pool for traced code: every new layout compiles anew, so these few stand for all options together."""


@st.composite
def layouts(
    draw: st.DrawFn,
    *,
    tied: bool | None = None,
    bias: bool | None = None,
    options: Sequence[str] = ("label_smoothing", "ignore_index", "reduction", "leading"),
    wide: bool = False,
) -> Layout:
    """Layouts of a head, a nesting and the named options."""
    nesting = draw(nestings(wide=wide))
    leads: list[tuple[int, ...]] = [(1,), (2,), (3,), (5,)]
    if "leading" in options:
        leads += [(), (2, 2), (2, 1, 3), (0,)]
    return Layout(
        nesting,
        draw(st.sampled_from(leads)),
        nesting.width + draw(st.integers(0, 2)),
        draw(st.integers(1, 6)),
        draw(st.booleans()) if tied is None else tied,
        draw(st.booleans()) if bias is None else bias,
        draw(st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0))) if "label_smoothing" in options else 0.0,
        draw(st.sampled_from((None, -100, 0, 1))) if "ignore_index" in options else None,
        draw(st.sampled_from(("mean", "sum", "none"))) if "reduction" in options else "mean",
        draw(st.sampled_from((None, 1, 2, 3))) if "chunk_rows" in options else None,
    )


@st.composite
def problems(
    draw: st.DrawFn, layout: st.SearchStrategy[Layout], dtype: str, upstream: str = "loss", specials: bool = False
) -> Problem:
    """Numbers for a drawn layout.

    ``upstream`` names the shape of what is differentiated: ``"loss"`` (a scalar, or one per example under
    ``reduction="none"``), ``"logits"`` ``(G, ..., C)`` or ``"embedding"`` ``(..., D)``. ``specials`` are NaN in
    ignored rows, and a first class that a bias of minus infinity excludes, where it is no label.
    """
    shape = draw(layout)
    upstream_shape: tuple[int, ...] = {
        "loss": shape.lead if shape.reduction == "none" else (),
        "logits": (len(shape.nesting), *shape.lead, shape.classes),
        "embedding": (*shape.lead, shape.features),
    }[upstream]
    # Plain eighths shrink to a counter-example that one can read; full mantissas make every rounding show. Of the wide
    # problems, eighths would be so many draws that shrinking takes most of a minute.
    if draw(st.booleans()) or shape.features > WIDER:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        scale = draw(st.sampled_from((1.0, 0.1, 4.0) if dtype == "float16" else (1.0, 0.1, 4.0, 30.0)))

        def numbers(size: tuple[int, ...]) -> Float:
            return round_to(rng.normal(size=size) * scale, dtype)
    else:

        def numbers(size: tuple[int, ...]) -> Float:
            return draw(hnp.arrays(np.float64, size, elements=st.integers(-24, 24).map(lambda n: n / 8)))

    z = numbers((*shape.lead, shape.features))
    if upstream == "embedding" and dtype != "float16":  # whose range ends far above the smallest norm
        z = z * draw(hnp.arrays(np.float64, (*shape.lead, 1), elements=st.sampled_from(FACTORS)))
    head = head_from(shape, [numbers(size) for size in leaf_shapes(shape)])
    elements = st.integers(0, shape.classes - 1)
    if shape.ignore_index is not None:
        elements = elements | st.just(shape.ignore_index)
    labels = draw(hnp.arrays(np.int64, shape.lead, elements=elements))
    if specials and shape.ignore_index is not None and draw(st.booleans()):
        z = np.where((labels == shape.ignore_index)[..., None], np.nan, z) if upstream == "loss" else z
    if specials and shape.bias and shape.classes > 1 and not shape.label_smoothing and draw(st.booleans()):
        head = _excluding_first_class(head)
        labels = np.where((labels == 0) & (shape.ignore_index != 0), 1, labels)
    return Problem(shape, dtype, z, head, labels, numbers(upstream_shape), numbers(z.shape))


def _excluding_first_class(head: Head) -> Head:
    def exclude(bias: Any) -> Float:
        return np.concatenate([[-np.inf], bias[1:]])

    if isinstance(head, TiedHead):
        return head._replace(bias=exclude(head.bias))
    return head._replace(biases=tuple(map(exclude, head.biases or ())))


def drawn(
    upstream: str,
    options: Sequence[str] = (),
    seen: Callable[[Problem], Problem] = lambda problem: problem,
    of: st.SearchStrategy[Layout] | None = None,
) -> Draw:
    """How a case draws: layouts with the named ``options``, or those ``of`` a strategy; ``seen`` is what it uses."""

    def draw(dtype: str, traced: bool, specials: bool) -> st.SearchStrategy[Problem]:
        shapes = of
        if shapes is None:
            shapes = st.sampled_from(TRACED_LAYOUTS) if traced else layouts(options=options, wide=True)
        return problems(shapes, dtype, upstream, specials).map(seen)

    return draw
