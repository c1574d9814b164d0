"""Problems of cascades: policies, and numbers whose confidences are seldom within rounding of a threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ... import spec
from ...cascade.policy import CONFIDENCES, CascadePolicy
from ...heads import TiedHead
from ...nesting import Nesting
from ..problems import Float, Layout, Problem, head_from, leaf_shapes, round_to
from .bounds import cascade_values, confidence_bound

SIXTEENTHS = tuple(n / 16 for n in (6, 8, 10, 12, 0, 16))
"""Few, so that confidences of so many rows meet them."""

JUST_BELOW = tuple(t * (1 - 2.0**-40) for t in SIXTEENTHS[:4])
"""Numbers that float32 rounds up to sixteenths."""

INEXACT = (0.03, 0.13, 0.37, 0.61, 0.86, 1.0)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0)


def is_exact(policy: CascadePolicy) -> bool:
    """Whether the confidences of given sixteenths are sixteenths, so that equality with a threshold can be drawn."""
    return policy.confidence != "entropy" and set(policy.temperatures) == {1.0}


@st.composite
def policies(draw: st.DrawFn, dims: tuple[int, ...], *, exact: bool) -> CascadePolicy:
    # Equality with a threshold is the rarer thing to draw, so more policies are made for it.
    confidence = draw(st.sampled_from(CONFIDENCES[:2] * 2 + CONFIDENCES if exact else CONFIDENCES))
    scales = st.lists(st.sampled_from(TEMPERATURES), min_size=len(dims), max_size=len(dims))
    temperatures = draw(scales) if draw(st.integers(0, 3 if exact else 1)) == 0 else None
    policy = CascadePolicy((1.0,) * (len(dims) - 1), dims, confidence=confidence, temperatures=temperatures)
    pool = JUST_BELOW + SIXTEENTHS if exact and is_exact(policy) else INEXACT
    thresholds = draw(st.lists(st.sampled_from(pool), min_size=len(dims) - 1, max_size=len(dims) - 1))
    return CascadePolicy(thresholds, dims, confidence=confidence, temperatures=temperatures)


@st.composite
def cascade_layouts(draw: st.DrawFn, given: str) -> Layout:
    dims = tuple(sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=4))))
    return Layout(
        Nesting(dims),
        draw(st.sampled_from(((12,), (25,), (40,), (3, 4), (2, 2, 3), (1,), (), (0,)))),
        dims[-1] + draw(st.integers(0, 2)),
        draw(st.integers(1, 6)),
        draw(st.booleans()),
        draw(st.booleans()),
        chunk_rows=draw(st.sampled_from((None, 1, 2, 5))),
        policy=draw(policies(dims, exact=given == "probabilities")),
        given=given,
    )


def _pooled(thresholds: tuple[float, ...], dims: tuple[int, ...], **options: Any) -> CascadePolicy:
    return CascadePolicy(thresholds, dims, **options)


_EXACT = (
    Layout(Nesting((1, 2, 4)), (9,), policy=_pooled((0.625 * (1 - 2.0**-40), 0.5), (1, 2, 4))),
    Layout(Nesting((2, 3)), (3, 4), classes=3, policy=_pooled((0.25,), (2, 3), confidence="margin")),
    Layout(
        Nesting((1, 2, 3)),
        (8,),
        policy=_pooled((0.37, 0.13), (1, 2, 3), confidence="entropy", temperatures=(0.5, 1.0, 2.0)),
    ),
)
_ROUNDED = (
    Layout(
        Nesting((2, 4, 5)),
        (11,),
        chunk_rows=4,
        policy=_pooled((0.61, 0.37), (2, 4, 5), temperatures=(1.5, 1.0, 0.5)),
    ),
    Layout(
        Nesting((2, 3, 4)),
        (3, 4),
        5,
        3,
        tied=False,
        policy=_pooled((0.37, 0.13), (2, 3, 4), confidence="margin", temperatures=(1.0, 2.0, 1.0)),
    ),
    Layout(Nesting((1, 3, 6, 7)), (10,), policy=_pooled((0.13, 0.13, 0.37), (1, 3, 6, 7), confidence="entropy")),
)


def pool(given: str) -> tuple[Layout, ...]:
    """The layouts of traced code: every new one compiles anew."""
    return tuple(replace(layout, given=given) for layout in (_EXACT if given == "probabilities" else _ROUNDED))


@st.composite
def cascade_problems(draw: st.DrawFn, layout: st.SearchStrategy[Layout], dtype: str) -> Problem:
    """Numbers for a drawn layout, as :func:`cascade_problem` makes them."""
    return cascade_problem(draw(layout), dtype, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


def cascade_problem(shape: Layout, dtype: str, rng: np.random.Generator, specials: bool = False) -> Problem:
    """Random numbers for a layout: full mantissas, but for probabilities, which are sixteenths. Some rows hold NaN."""
    assert shape.policy is not None
    scale = rng.choice((1.0, 0.5, 2.0))

    def numbers(size: tuple[int, ...]) -> Float:
        return round_to(rng.normal(size=size) * scale, dtype)

    levels = (len(shape.nesting), *shape.lead, shape.classes)
    if shape.given == "probabilities":
        # Where logarithms are taken of them, zeros are left to a test of their own.
        least = 0 if set(shape.policy.temperatures) == {1.0} else 1
        shares = rng.dirichlet(np.full(shape.classes, 0.7), size=levels[:-1])
        z = (rng.multinomial(16 - least * shape.classes, shares).reshape(levels) + least) / 16
    else:
        z = numbers(levels if shape.given == "logits" else (*shape.lead, shape.features))
    if z.size and rng.random() < 0.5:
        z[tuple(rng.integers(size) for size in z.shape)] = np.nan
    if shape.given == "embeddings":
        head = head_from(shape, [numbers(size) for size in leaf_shapes(shape)])
    else:
        head = TiedHead(np.zeros((0, 0)))
    return Problem(shape, dtype, z, head, np.zeros(shape.lead, np.int64), np.zeros(()))


def with_near_thresholds(problem: Problem, rng: np.random.Generator) -> Problem:
    """In some problems each threshold lies just outside the bound of some row's confidence: near and decided."""
    policy = problem.layout.policy
    assert policy is not None
    values, e_values = cascade_values(problem)
    often = 0.25 if problem.layout.given == "probabilities" else 0.5  # of those, equality is the rarer thing to draw
    if rng.random() > often or not values[0].size:
        return problem
    thresholds = []
    for g, threshold in enumerate(policy.thresholds[: len(policy) - 1]):
        with np.errstate(all="ignore"):
            found = spec.confidence(
                values[g], policy.confidence, policy.temperatures[g], logits=problem.layout.given != "probabilities"
            )
            bound = confidence_bound(problem, g, values[g], e_values[g], found)
        row = rng.integers(found.size)
        one, e = found.reshape(-1)[row], np.broadcast_to(bound, found.shape).reshape(-1)[row]
        near = one + rng.choice((-1, 1)) * max(4 * e, 2.0**-20)
        # Of no other row may it be too near to decide; twice the bound, and twice that in float64.
        decided = np.isnan(found) | (np.abs(found - near) > (4 if problem.dtype == "float64" else 2) * bound)
        thresholds.append(float(near) if 0 < near < 1 and decided.all() else threshold)  # NaN is not
    near_policy = CascadePolicy(thresholds, policy.dims, confidence=policy.confidence, temperatures=policy.temperatures)
    return problem.with_layout(policy=near_policy)
