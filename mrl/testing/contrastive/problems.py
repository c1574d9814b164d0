"""Problems of the contrastive loss: few anchors and candidates, rows of all norms, duplicates and zero prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from ...heads import TiedHead
from ...nesting import Nesting
from ..case import Draw
from ..cross_entropy.problems import FACTORS, scaled_rows
from ..drawing import WIDER, nestings
from ..problems import Float, Layout, Problem, round_to

LARGE_ROWS, LARGE_CANDIDATES = 65, 301
"""More candidates than bfloat16 counts to, and odd."""

OPTIONS = ("symmetric", "reduction", "chunk_rows", "negatives", "exclude", "similarity", "temperature")

POOL = (
    Layout(Nesting((4,), (0.5,)), (2,), classes=2),
    Layout(Nesting((1, 2, 4), (0.5, 1.0, 2.0)), (5,), 6, 5, chunk_rows=2, symmetric=True, temperature=0.0),
    Layout(
        Nesting((3, 4), (2.0, 0.3)), (4,), classes=7, reduction="sum", chunk_rows=3, temperature=0.1, excluding=True,
        frozen=(0,),
    ),
    Layout(
        Nesting((2, 3, 7)), (4,), 8, 6, reduction="none", symmetric=True, excluding=True, temperature=-1.0,
        similarity="dot",
    ),
    Layout(Nesting((1, 3, 4, 5, 9), (1.0, 0.25, 0.0, 2.0, 3.7)), (3,), classes=8, chunk_rows=2, temperature=0.05),
    Layout(Nesting((2, 3, 5), (0.5, 1.0, 0.0)), (6,), classes=6, temperature=-1.0, similarity="dot", frozen=(1,)),
    Layout(Nesting((1, 3), (2.0, 0.5)), (1,), classes=1, symmetric=True, temperature=0.5),
    Layout(Nesting((2, 3)), (0,), 4, 2, temperature=0.0),
    Layout(Nesting((2, 40), (1.0, 0.5)), (LARGE_ROWS,), classes=LARGE_CANDIDATES, symmetric=True, temperature=0.05),
)  # fmt: skip
"""The pool for traced code: every new layout compiles anew, so these few stand for all options together."""


@st.composite
def layouts(draw: st.DrawFn, *, options: Sequence[str] = OPTIONS, how: bool = True) -> Layout:
    """Layouts of a nesting, a batch and the named options; ``how`` arrays lie and are differentiated is drawn too."""

    def one_in(count: int, option: str) -> bool:
        return option in options and draw(st.integers(1, count)) == count

    large = how and draw(st.integers(1, 16)) == 16
    nesting = draw(nestings(3) if large else nestings(wide=how))
    rows = LARGE_ROWS if large else draw(st.sampled_from((1, 2, 3, 4, 5) * 2 + ((0,) if how else ())))
    further = draw(st.integers(1, 4)) if one_in(2, "negatives") else 0
    if large:
        further = LARGE_CANDIDATES - rows if "negatives" in options else 0
    learnt = one_in(3, "temperature")
    places = 2 + bool(further) + learnt
    return Layout(
        nesting,
        (rows,),
        nesting.width + draw(st.integers(0, 2)),
        rows + further,
        reduction=draw(st.sampled_from(("mean", "sum", "none"))) if "reduction" in options else "mean",
        chunk_rows=draw(st.sampled_from((None, 1, 2, 3))) if "chunk_rows" in options and not large else None,
        symmetric=one_in(2, "symmetric"),
        similarity="dot" if one_in(4, "similarity") else "cosine",
        temperature=draw(st.sampled_from((0.0, -1.0) if learnt else (0.05, 0.1, 0.3, 1.0, 2.0))),
        excluding=one_in(3, "exclude"),
        frozen=tuple(sorted(draw(st.sets(st.integers(0, places - 1), min_size=1, max_size=places - 1))))
        if how and draw(st.integers(1, 4)) == 4
        else (),
        strided=how and draw(st.integers(1, 6)) == 6,
        twice=how and draw(st.integers(1, 8)) == 8,
    )


def problem(
    layout: Layout, dtype: str, rng: np.random.Generator, specials: bool = False, *, ordinary: bool = False
) -> Problem:
    """Random numbers for a layout; ``ordinary`` ones have no prefix of nothing, and no norm that is out of range."""
    rows, further, half = layout.rows, layout.classes - layout.rows, dtype in ("float16", "bfloat16")
    large = rows >= LARGE_ROWS
    layout = replace(layout, given="pairs")
    rounded = rng.random() < 0.5 and layout.features <= WIDER
    cosine = layout.similarity == "cosine"
    scale = rng.choice((1.0, 0.1) if not cosine or large else (1.0, 0.1, 4.0))

    def numbers(size: tuple[int, ...], factor: float = scale) -> Float:
        if rounded:
            return np.asarray(rng.integers(-8, 9, size) / 8 if not cosine else rng.integers(-24, 25, size) / 8)
        return round_to(rng.normal(size=size) * factor, dtype)

    def side(count: int) -> Float:
        x = numbers((count, layout.features))
        if ordinary:
            x[:, 0] = np.where(x[:, 0] == 0, 0.125, x[:, 0])
            return x
        if cosine and dtype != "float16" and rng.random() < 0.25:
            x = scaled_rows(x, rng.choice(FACTORS, (count, 1)))
        if count and rng.random() < 0.25:  # a prefix of nothing
            x[rng.integers(count), : layout.nesting.dims[0]] = 0
        return x

    anchors, positives, negatives = side(rows), side(rows), side(further)
    if rows > 1 and rng.random() < 0.25:
        positives[-1] = positives[0]
    if rng.random() < 0.25:
        positives = anchors.copy()
    exclude = None
    if layout.excluding:
        exclude = np.asarray(rng.random((rows, layout.classes)) < 0.3) & ~np.eye(rows, layout.classes, dtype=bool)
    temperature = None
    if layout.temperature <= 0:
        size = (len(layout.nesting),) if layout.temperature < 0 else ()
        temperature = round_to(rng.choice((0.0625, 0.1, 0.5, 1.0, 2.0), size), dtype)
    above = numbers((rows,) if layout.reduction == "none" else (), 1.0)
    above = np.zeros_like(above) if rng.random() < 1 / 16 else np.where(above == 0, 0.125, above)
    return Problem(
        layout,
        dtype,
        anchors,
        TiedHead(np.zeros((0, 0))),
        np.zeros((0,), np.int64),
        above / 64 if half and large else above,
        positives,
        negatives if further else None,
        temperature,
        exclude,
    )


DRAW = Draw(problem, layouts(), POOL)
