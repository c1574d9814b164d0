"""Which sizes, how many queries and how many rows: planned from counts alone, in pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

QUERIES = 1000
"""Queries of a report: intervals of half a point, which no reader needs narrower."""

FEWEST_QUERIES = 200
"""Before fewer queries are asked, fewer rows are searched."""

WORK = 7e12
"""Multiply-adds of all searches together: minutes on two cores."""

PER_SCORE = 150
"""What picking the best costs a score, in multiply-adds, as measured on two cores."""

ONLY_CUT = ("pca", "random", "unnormalized", "last")
"""What at the full width finds what the full width finds: there nothing is searched again."""

CHUNK_BYTES = 64 << 20
"""Rows that are held at a time."""

FIT_ROWS = 20_000
"""Rows that axes, scales and heads are fitted on, at most."""

HELD_OUT_ROWS = 4_000
"""Rows that heads are measured on, at most; half of them, that of a cascade's policies."""

FUNNEL_ROWS = 50_000
"""Rows that a funnel is planned on, at most: it keeps every prefix of them in memory."""

POOL = 64
"""Rows whose order is compared for every query."""


class Sample(NamedTuple):
    """How many queries are asked, and of how many rows."""

    queries: int
    rows: int


def plan_sizes(width: int) -> tuple[int, ...]:
    """Powers of two below the width, from 8, or from 16 where it is at least 256; and the width.

    Example:
        >>> from mrl.report.planning import plan_sizes
        >>> plan_sizes(768)
        (16, 32, 64, 128, 256, 512, 768)
        >>> plan_sizes(64), plan_sizes(5)
        ((8, 16, 32, 64), (5,))
    """
    first = 16 if width >= 256 else 8
    return (*(2**i for i in range(first.bit_length() - 1, 63) if 2**i < width), width)


def plan_sample(queries: int, rows: int, sizes: Sequence[int], methods: Sequence[str], wanted: int | None) -> Sample:
    """Fewer queries where all of them would take too long, down to 200; then fewer rows. ``wanted`` queries are asked.

    Example:
        >>> from mrl.report.planning import plan_sample, plan_sizes
        >>> from mrl.report.values import METHODS
        >>> plan_sample(10**5, 10**5, plan_sizes(384), METHODS[:7], None)
        Sample(queries=1000, rows=100000)
        >>> plan_sample(10**6, 10**6, plan_sizes(768), METHODS[:7], None)
        Sample(queries=420, rows=1000000)
        >>> plan_sample(10**8, 10**8, plan_sizes(768), METHODS[:7], None).queries
        200
    """
    pair = sum(m + PER_SCORE for name in methods for m in sizes if m != sizes[-1] or name not in ONLY_CUT)
    asked = min(queries, QUERIES if wanted is None else wanted)
    if wanted is None:
        asked = max(min(asked, FEWEST_QUERIES), min(asked, int(WORK / (pair * rows))))
        asked = asked // 20 * 20 if asked > FEWEST_QUERIES and asked < min(queries, QUERIES) else asked
    return Sample(asked, max(1, min(rows, int(WORK / (pair * max(1, asked))))))


def plan_parts(rows: int) -> tuple[int, int]:
    """Labelled rows that heads are fitted on, and that they are measured on.

    Example:
        >>> from mrl.report.planning import plan_parts
        >>> plan_parts(1797), plan_parts(10**6)
        ((898, 899), (20000, 4000))
    """
    fitted = min(rows // 2, FIT_ROWS)
    return fitted, min(rows - fitted, HELD_OUT_ROWS)


def plan_episodes(classes: int) -> int:
    """Draws of the examples of few-shot classes.

    Example:
        >>> from mrl.report.planning import plan_episodes
        >>> plan_episodes(45), plan_episodes(1000), plan_episodes(10**4)
        (20, 5, 2)
    """
    return 20 if classes <= 100 else 5 if classes <= 1000 else 2


def plan_chunk(width: int) -> int:
    """Rows of a chunk, of four bytes a number.

    Example:
        >>> from mrl.report.planning import plan_chunk
        >>> plan_chunk(768)
        21845
    """
    return max(1, CHUNK_BYTES // (4 * width))
