"""Problems of prefixes, logits and losses: small shapes, where bounds are tight and search is quick, some large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ...heads import Head, TiedHead
from ...nesting import Nesting
from ..case import Draw
from ..drawing import WIDER, nestings
from ..problems import Float, Layout, Problem, head_from, leaf_shapes, round_to

WEIGHTED = ("sample_weight", "class_weight", "level_weights")
"""What :func:`mrl.nested_cross_entropy` may be weighted by, beside the nesting's own weights."""

FACTORS = (1.0, 1.0, 2.0**-33, 2.0**-38, 2.0**-41, 2.0**-46, np.inf)
"""Embeddings that are normalised are scaled by these: rows on both sides of the smallest norm, 1e-12. Infinity stands
for the largest power of two that leaves them finite in float32: squares overflow, and reciprocals are subnormal."""

LARGE_ROWS, LARGE_CLASSES = 321, 310
"""More than 256, past which bfloat16 counts in twos, and odd."""

TRACED_LAYOUTS = (
    Layout(Nesting((4,), (0.5,)), (2,)),
    Layout(
        Nesting((1, 2, 4), (0.5, 1.0, 2.0)), (2, 3), 6, 5, label_smoothing=0.1, ignore_index=-100, chunk_rows=4,
        weighted=("sample_weight",), frozen=(1,),
    ),
    Layout(
        Nesting((3, 4), (2.0, 0.3)), (5,), tied=False, reduction="sum", ignore_index=1, weighted=("class_weight",),
        head_dtype="float32",
    ),
    Layout(
        Nesting((2, 3, 7)), (4,), 8, 3, tied=False, bias=False, label_smoothing=0.2, chunk_rows=3,
        weighted=("sample_weight", "class_weight"), frozen=(0,),
    ),
    Layout(
        Nesting((1, 6), (1.5, 1.0)), (2, 2), bias=False, reduction="none", label_smoothing=0.1, soft=True,
        weighted=("level_weights",),
    ),
    Layout(
        Nesting((1, 3, 4, 5, 9), (1.0, 0.25, 0.0, 2.0, 3.7)), (6,), classes=9, reduction="none", ignore_index=0,
        chunk_rows=4, weighted=("level_weights",),
    ),
    Layout(Nesting((2, 3, 5), (0.5, 1.0, 0.0)), (3,), classes=3, chunk_rows=2, soft=True, weighted=WEIGHTED),
    Layout(Nesting((1, 3), (2.0, 0.5)), (), classes=2, label_smoothing=1.0, frozen=(0,)),
    Layout(Nesting((2, 3)), (0,), 4, 1, ignore_index=-100),
    Layout(Nesting((1, 2)), (1,), classes=1, tied=False, label_smoothing=0.5, reduction="none"),
    Layout(Nesting((2, 40), (1.0, 0.5)), (LARGE_ROWS,), classes=LARGE_CLASSES, ignore_index=7),
)  # fmt: skip
"""The pool for traced code: every new layout compiles anew, so these few stand for all options together."""

PLAIN_LAYOUTS = tuple(
    Layout(layout.nesting, layout.lead, layout.width, layout.classes, layout.tied, layout.bias, frozen=frozen)
    for layout, frozen in zip(TRACED_LAYOUTS[:-1], ((), (1,), (), (0,), (), (0,), (), (), (), ()), strict=True)
)
"""The pool of what has no options."""

HOW = ("frozen", "strided", "twice", "head_dtype", "large")
"""Options of the proof itself: how arrays lie, which are differentiated, and how often."""


@st.composite
def layouts(
    draw: st.DrawFn,
    *,
    tied: bool | None = None,
    bias: bool | None = None,
    options: Sequence[str] = ("label_smoothing", "ignore_index", "reduction", "leading"),
    wide: bool = False,
) -> Layout:
    """Layouts of a head, a nesting and the named options: of the loss, of ``WEIGHTED`` and of ``HOW``."""

    def one_in(count: int, option: str) -> bool:
        return option in options and draw(st.integers(1, count)) == count

    large = one_in(16, "large")
    nesting = draw(nestings(3) if large else nestings(wide=wide))
    leads: list[tuple[int, ...]] = [(1,), (2,), (3,), (5,)]
    if "leading" in options:
        leads = [*leads * 2, (), (2, 2), (2, 1, 3), (0,)]
    lead = (LARGE_ROWS,) if large else draw(st.sampled_from(leads))
    width = nesting.width + draw(st.integers(0, 2))
    classes = LARGE_CLASSES if large else draw(st.sampled_from((2, 3, 4, 5, 6) * 2 + (1, min(width, 9))))
    soft = one_in(4, "soft")
    layout = Layout(
        nesting,
        lead,
        width,
        classes,
        draw(st.booleans()) if tied is None else tied,
        draw(st.booleans()) if bias is None else bias,
        draw(st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0))) if "label_smoothing" in options else 0.0,
        draw(st.sampled_from((None, -100, 0, 1))) if "ignore_index" in options and not soft else None,
        draw(st.sampled_from(("mean", "sum", "none"))) if "reduction" in options else "mean",
        draw(st.sampled_from((None, 1, 2, 3))) if "chunk_rows" in options and not large else None,
        soft,
        tuple(name for name in WEIGHTED if one_in(3, name)),
    )
    arrays = 1 + len(leaf_shapes(layout))
    return replace(
        layout,
        head_dtype=draw(st.sampled_from(("float32", "float16"))) if one_in(8, "head_dtype") else "",
        frozen=tuple(sorted(draw(st.sets(st.integers(0, arrays - 1), min_size=1, max_size=arrays - 1))))
        if one_in(4, "frozen")
        else (),
        strided=one_in(6, "strided"),
        twice=one_in(8, "twice"),
    )


@st.composite
def problems(
    draw: st.DrawFn, layout: st.SearchStrategy[Layout], dtype: str, upstream: str = "loss", specials: bool = False
) -> Problem:
    """Numbers for a drawn layout, as :func:`problem` makes them."""
    return problem(draw(layout), dtype, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), upstream, specials)


def problem(
    layout: Layout, dtype: str, rng: np.random.Generator, upstream: str = "loss", specials: bool = False
) -> Problem:
    """Random numbers for a layout.

    ``upstream`` names the shape of what is differentiated: ``"loss"`` (a scalar, or one per example under
    ``reduction="none"``), ``"logits"`` ``(G, ..., C)`` or ``"embedding"`` ``(..., D)``. ``specials`` are NaN in
    ignored rows, and a first class that a bias of minus infinity excludes, where it has no share in a target, or
    sometimes where it has and the loss is infinite.
    """
    upstream_shape: tuple[int, ...] = {
        "loss": layout.lead if layout.reduction == "none" else (),
        "logits": (len(layout.nesting), *layout.lead, layout.classes),
        "embedding": (*layout.lead, layout.features),
    }[upstream]
    # Eighths are read more easily in a counter-example; full mantissas make every rounding show.
    rounded, half = rng.random() < 0.5 and layout.features <= WIDER, dtype == "float16"
    large = layout.rows >= LARGE_ROWS
    scale = rng.choice((1.0, 0.1) if large else (1.0, 0.1, 4.0) if half else (1.0, 0.1, 4.0, 30.0))

    def numbers(size: tuple[int, ...], kind: str = dtype) -> Float:
        if rounded:
            return np.asarray(rng.integers(-24, 25, size) / 8)
        return round_to(rng.normal(size=size) * scale, kind)

    def eighths(size: tuple[int, ...], none: float) -> Float:
        left_out = np.asarray(rng.random(size) < none)
        if left_out.all() and rng.random() < 0.8:  # as of ignored rows below: nothing left is a corner, no more
            left_out = np.zeros(size, bool)
        return np.asarray(np.where(left_out, 0.0, rng.integers(1, 25, size) / 8))

    z = numbers((*layout.lead, layout.features))
    if upstream == "embedding" and not half and rng.random() < 0.5:  # whose range ends far above the smallest norm
        z = scaled_rows(z, rng.choice(FACTORS, (*layout.lead, 1)))
    head = head_from(layout, [numbers(size, layout.head_dtype or dtype) for size in leaf_shapes(layout)])
    above = numbers(upstream_shape)
    if upstream == "loss":  # a loss that nobody differentiates is drawn on purpose, and seldom
        above = np.zeros_like(above) if rng.random() < 1 / 16 else np.where(above == 0, 0.125, above)
        above = above / 64 if half and large else above
    classes, ignored = layout.classes, np.zeros(layout.lead, bool)
    labels: Any
    if layout.soft:
        labels = eighths((*layout.lead, classes), max(0.3, 1 - 3 / classes))
    else:
        labels = rng.integers(0, classes, layout.lead)
        if layout.ignore_index is not None:
            ignored = (rng.random(layout.lead) < 0.25) | (labels == layout.ignore_index)
            if ignored.all() and classes > 1 and rng.random() < 0.8:
                ignored = np.zeros(layout.lead, bool)
                labels = np.where(labels == layout.ignore_index, (labels + 1) % classes, labels)
            labels = np.where(ignored, layout.ignore_index, labels)
    sizes = {"sample_weight": layout.lead, "class_weight": (classes,), "level_weights": (len(layout.nesting),)}
    weights: dict[str, Any] = {name: eighths(sizes[name], 1 / 6) for name in layout.weighted}
    if specials and upstream == "loss" and rng.random() < 0.5:
        z = np.where(ignored[..., None], np.nan, z)
        if "sample_weight" in weights:
            weights["sample_weight"] = np.where(ignored, np.nan, weights["sample_weight"])
    made = Problem(layout, dtype, z, head, labels, above, numbers(z.shape), **weights)
    return _excluding_first_class(made, rng) if specials and layout.bias and classes > 1 else made


def scaled_rows(z: Float, factors: Float) -> Float:
    largest = np.abs(z).max(-1, keepdims=True, initial=2.0**-149)
    huge = 2.0 ** (126 - np.ceil(np.log2(np.where(largest > 0, largest, 1.0))))
    return np.asarray(z * np.where(np.isinf(factors), huge, factors))


def _excluding_first_class(problem: Problem, rng: np.random.Generator) -> Problem:
    chance, layout = rng.random(), problem.layout
    if chance > (0.1 if layout.label_smoothing else 0.5):
        return problem
    labels = problem.labels
    if layout.soft:
        labels = np.where(np.arange(layout.classes) == 0, 0.0, labels)
    elif chance > 0.05:
        labels = np.where((labels == 0) & (layout.ignore_index != 0), 1, labels)

    def exclude(bias: Any) -> Float:
        return np.concatenate([[-np.inf], bias[1:]])

    head: Head = problem.head
    if isinstance(head, TiedHead):
        head = head._replace(bias=exclude(head.bias))
    else:
        head = head._replace(biases=tuple(map(exclude, head.biases or ())))
    return replace(problem, labels=labels, head=head)


def drawn(
    upstream: str,
    options: Sequence[str] = (),
    seen: Callable[[Problem], Problem] = lambda problem: problem,
    of: st.SearchStrategy[Layout] | None = None,
    pool: tuple[Layout, ...] = (),
) -> Draw:
    """How a case draws: layouts with the named ``options``, or those ``of`` a strategy; ``seen`` is what it uses.

    The ``pool`` comes first for traced code, and beside ``of`` the strategy then has its turn there too.
    """

    def make(layout: Layout, dtype: str, rng: np.random.Generator, specials: bool) -> Problem:
        return seen(problem(layout, dtype, rng, upstream, specials))

    return Draw(make, layouts(options=options, wide=True) if of is None else of, pool, only_pool=of is None)
