"""How many rows a cascade works on at a time: planned once, in pure Python, for every backend."""

from __future__ import annotations

from ..nesting import Nesting
from ..planning import UNKNOWN_ROWS

CACHE_BYTES = 1 << 20
"""Logits of one chunk on a CPU: they are read several times, and stay in the cache of its cores."""

ACCELERATOR_BYTES = 64 << 20
"""The same on an accelerator, where a small product leaves most of the device idle."""

FEWEST_ROWS, MOST_ROWS = 32, 4096
"""Fewer rows make slow products; more of them gain nothing."""

STORE_BYTES = 256 << 20
"""Logits of undecided rows that wait for their next level."""

HOST_STORE_BYTES = 16 << 20
"""The same where a host keeps them: more would not come back from caches, and each page of it is new to the system."""

SURELY = 1e-3
"""By so much, relatively, a bound on a confidence has to be under a threshold to decide: more than a float32 is off."""


def plan_chunk_rows(rows: int | None, classes: int, itemsize: int, *, on_host: bool, chunk_rows: int | None) -> int:
    """The rows of one chunk: of its logits a pass is made for the product, the confidence and the label.

    A caller's own ``chunk_rows`` is taken as it is. Any chunk gives the same answer.

    Example:
        >>> from mrl.cascade.planning import plan_chunk_rows
        >>> plan_chunk_rows(16384, 1000, 4, on_host=True, chunk_rows=None)
        262
    """
    if chunk_rows is None:
        budget = CACHE_BYTES if on_host else ACCELERATOR_BYTES
        chunk_rows = max(FEWEST_ROWS, budget // (classes * itemsize))
        chunk_rows = min(chunk_rows, MOST_ROWS) if on_host else chunk_rows
    return min(chunk_rows, UNKNOWN_ROWS) if rows is None else max(1, min(chunk_rows, rows))


def plan_wave_rows(chunk_rows: int, classes: int, itemsize: int, *, on_host: bool = False) -> int:
    """The rows that walk through the levels together, whole chunks: their logits are kept between levels."""
    store = HOST_STORE_BYTES if on_host else STORE_BYTES
    return chunk_rows * max(1, store // (chunk_rows * classes * itemsize))


def level_columns(nesting: Nesting, *, tied: bool) -> tuple[tuple[int, int], ...]:
    """The columns of ``z`` that each level multiplies: its own block of a tied head, else its whole prefix."""
    return nesting.blocks if tied else tuple((0, m) for m in nesting.dims)
