"""What the problems of every family are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from ..nesting import Nesting

WEIGHTS = (0.5, 1.0, 0.25, 2.0, 0.0, 3.7)

WIDER = 40
"""Dimensions more for one last granularity in eight: kernels may treat wide blocks in another way than narrow ones."""


def nestings(max_levels: int = 5, max_width: int = 9, *, wide: bool = False) -> st.SearchStrategy[Nesting]:
    """Nestings of up to ``max_levels`` granularities and ``max_width`` dimensions, with unequal weights.

    ``wide`` ones have 40 dimensions more now and then; they shrink badly, and losses of users are tried without.
    """

    def weighted(dims: Sequence[int]) -> st.SearchStrategy[Nesting]:
        weights = st.lists(st.sampled_from(WEIGHTS), min_size=len(dims), max_size=len(dims))
        return st.builds(Nesting, st.just(tuple(dims)), weights.filter(any))

    def widened(dims: list[int]) -> list[int]:
        return [*dims[:-1], dims[-1] + WIDER]

    dims = st.sets(st.integers(1, max_width), min_size=1, max_size=max_levels).map(sorted)
    return (st.one_of(*[dims] * 7, dims.map(widened)) if wide else dims).flatmap(weighted)
