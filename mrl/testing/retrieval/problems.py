"""Problems of searches: numbers whose scores are apart, and numbers whose scores are exact and often equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from ...heads import TiedHead
from ...nesting import Nesting
from ...retrieval.prepared import METRICS
from ..drawing import nestings
from ..problems import Float, Layout, Problem, round_to

ROWS = (0, 1, 2, 7, 15, 16, 17, 40, 63, 64, 65, 130, 300)
"""Of a database: fewer than a block, about a block, about two, and several tiles."""


@st.composite
def search_layouts(draw: st.DrawFn, stages: int) -> Layout:
    """Layouts of a search with so many stages at most."""
    nesting = draw(nestings(stages, wide=True))
    kept = sorted(draw(st.lists(st.sampled_from((1, 2, 3, 5, 17, 70)), min_size=len(nesting), max_size=len(nesting))))
    return Layout(
        nesting,
        draw(st.sampled_from(((3,), (5,), (1,), (2, 2), (), (0,), (9,)))),
        nesting.width + draw(st.integers(0, 2)),
        draw(st.sampled_from(ROWS)),
        chunk_rows=draw(st.sampled_from((None, None, 1, 64, 128))),
        topk=tuple(reversed(kept)),
        metric=draw(st.sampled_from(METRICS)),
        prepared=draw(st.booleans()),
        strided=draw(st.booleans()),
    )


_POOL = (
    Layout(Nesting((2, 4)), (5,), 5, 40, topk=(7, 3), metric="cosine"),
    Layout(Nesting((3, 5)), (4,), 5, 300, topk=(17, 5), metric="l2", chunk_rows=64),
    Layout(Nesting((4, 7)), (3,), 8, 65, topk=(3, 2), metric="dot", prepared=True),
    Layout(Nesting((1, 4)), (6,), 4, 130, topk=(5, 4), metric="cosine", prepared=True, chunk_rows=64),
    Layout(Nesting((2, 3)), (2,), 4, 3, topk=(9, 5), metric="l2", prepared=True),
    Layout(Nesting((3, 6)), (6,), 9, 64, topk=(9, 6), metric="cosine"),
    Layout(Nesting((2, 3)), (3,), 3, 0, topk=(2, 1), metric="cosine"),
)


def pool(stages: int) -> tuple[Layout, ...]:
    """The layouts of traced code: every new one compiles anew."""
    if stages > 1:
        return _POOL
    firsts = ((layout, Nesting(layout.nesting.dims[:1])) for layout in _POOL)
    return tuple(
        replace(layout, nesting=nesting, width=layout.features, topk=layout.topk[:1]) for layout, nesting in firsts
    )


def search_problem(shape: Layout, dtype: str, rng: np.random.Generator, specials: bool = False) -> Problem:
    """Queries, a database and candidates for a layout. Some rows hold NaN, some are zero, and some stand twice."""
    count = shape.classes
    # Of a single dimension all cosines are equal, and rounded ones decide nothing.
    cosine = shape.metric == "cosine"
    exact = rng.random() < (0.4 if cosine else 0.6) or (cosine and shape.nesting.dims[0] == 1)
    queries, rows = (
        _numbers(size, shape.metric, exact, rng) for size in ((*shape.lead, shape.features), (count, shape.features))
    )
    if exact and count > 1:
        rows[rng.integers(0, count, count // 3)] = rows[rng.integers(count)]
    if rng.random() < 0.7 and count:
        rows[rng.integers(count), : rng.integers(1, shape.features + 1)] = np.nan
    if rng.random() < 0.7 and count:
        rows[rng.integers(0, count, 2)] = 0
    if rng.random() < 0.2 and queries.size:
        queries[tuple(rng.integers(size) for size in queries.shape)] = np.nan
    candidates = rng.integers(-1, max(count, 0), (*shape.lead, int(rng.choice((1, 4, 20)))))
    candidates = np.where(rng.random(candidates.shape) < 0.2, -1, candidates)
    return Problem(
        shape,
        dtype,
        round_to(queries, dtype),
        TiedHead(np.zeros((0, 0))),
        candidates,
        np.zeros(()),
        targets=round_to(rows, dtype),
    )


def _numbers(size: tuple[int, ...], metric: str, exact: bool, rng: np.random.Generator) -> Float:
    if not exact:
        return np.asarray(rng.normal(size=size) * rng.choice((0.5, 1.0, 2.0)))
    if metric != "cosine":
        return rng.integers(-2, 3, size).astype(np.float64)
    # A single power of two has a norm that nothing rounds, in every prefix.
    place = rng.integers(0, size[-1], size[:-1])[..., None]
    values = rng.choice((-2.0, -1.0, 0.5, 1.0, 4.0), (*size[:-1], 1))
    return np.where(np.arange(size[-1]) == place, values, 0.0)
