"""How many rows and queries are scored at a time: planned once, in pure Python, for every backend."""

from __future__ import annotations

from typing import NamedTuple

MOST_QUERIES = 256
"""Queries scored together: more of them make no product faster, and need as much more memory."""

HOST_BYTES = 8 << 20
"""Scores of one tile on a CPU: they are read once more, out of a cache, before the next tile overwrites them."""

ACCELERATOR_BYTES = 256 << 20
"""The same on an accelerator, where a small product leaves most of the device idle."""

ROW_BYTES = 64 << 20
"""Rows of the database that are held beside it: a tile that has to be widened, or candidates that are gathered."""

GATHER_BYTES = 4 << 20
"""Candidates that are gathered on a CPU: they are read again, out of a cache."""

BLOCK = 16
"""Scores of which only the largest is looked at first."""

FINE = 128
"""Blocks per result from which on blocks of blocks are looked at first; fewer are sorted as fast as they are."""

PICK_BYTES = 256 << 20
"""Maxima of blocks."""

FEWEST_QUERIES = 16
"""Below so many at a time a pass over the database for each of them costs more than it saves."""


KEPT_ROWS = 16_384
"""Rows of a tile whose scores are kept: to take their best costs as much as to gather 16 columns for them again."""

UNKNOWN_ROWS = 1 << 20
"""Of a database whose rows are not known yet."""


class Tile(NamedTuple):
    """``queries`` by ``rows`` scores at a time."""

    queries: int
    rows: int


def plan_tile(
    queries: int, rows: int | None, dim: int, itemsize: int, *, on_host: bool, copied: bool, tile: int | None
) -> Tile:
    """The queries and rows of one tile of scores; rows are whole blocks.

    A caller's own ``tile``, in rows, is taken, rounded up to whole blocks. Any tile gives the same result, but for
    rounding.

    Args:
        queries: how many there are.
        rows: of the database; ``None`` where it is not known yet.
        dim: columns that are multiplied.
        itemsize: bytes of a score.
        on_host: whether the arrays live in a CPU's memory.
        copied: whether a tile of rows is held a second time, widened or normalised.
        tile: the caller's wish.

    Example:
        >>> from mrl.retrieval.planning import plan_tile
        >>> plan_tile(1000, 10**6, 16, 4, on_host=True, copied=False, tile=None)
        Tile(queries=256, rows=8192)
        >>> plan_tile(1, 1000, 16, 4, on_host=True, copied=False, tile=None)
        Tile(queries=1, rows=1008)
    """
    together = max(1, min(queries, MOST_QUERIES))
    if tile is None:
        tile = (HOST_BYTES if on_host else ACCELERATOR_BYTES) // (together * itemsize)
        tile = min(tile, ROW_BYTES // (dim * itemsize)) if copied else tile
    tile = tile if rows is None else min(tile, max(1, rows))
    return Tile(together, -(-max(1, tile) // BLOCK) * BLOCK)


class Passes(NamedTuple):
    """A tile, and for how many queries the picked blocks are scored again at a time; ``None``: no blocks are picked."""

    queries: int
    rows: int
    again: int | None


def plan_passes(
    queries: int, rows: int | None, dim: int, k: int, itemsize: int, *, on_host: bool, tile: int | None
) -> Passes:
    """For static shapes: the tile, and whether a pass keeps the maxima of blocks alone.

    Then the rows of the best blocks are scored again, which costs the more the wider they are. Or the scores of a tile
    are kept until its best are taken, which is done once for each; such tiles are larger.

    Example:
        >>> from mrl.retrieval.planning import plan_passes
        >>> plan_passes(256, 10**6, 16, 200, 4, on_host=True, tile=None)
        Passes(queries=256, rows=8192, again=20)
        >>> plan_passes(256, 10**6, 2048, 200, 4, on_host=True, tile=None)
        Passes(queries=256, rows=16384, again=None)
    """
    count = UNKNOWN_ROWS if rows is None else rows
    together = min(queries, MOST_QUERIES, PICK_BYTES // (itemsize * (count // BLOCK) + 1))
    if dim * KEPT_ROWS <= BLOCK * count and together >= min(queries, FEWEST_QUERIES):
        plan = plan_tile(together, rows, dim, itemsize, on_host=on_host, copied=False, tile=tile)
        return Passes(*plan, plan_gather(k * BLOCK, dim, itemsize, on_host=on_host))
    together = min(queries, MOST_QUERIES)
    if tile is None:
        tile = (2 * HOST_BYTES if on_host else ACCELERATOR_BYTES) // (itemsize * max(1, together))
    return Passes(*plan_tile(together, rows, dim, itemsize, on_host=on_host, copied=False, tile=tile), None)


def plan_gather(candidates: int, dim: int, itemsize: int, *, on_host: bool, queries: int | None = None) -> int:
    """For how many queries the rows of candidates are gathered at a time.

    Example:
        >>> from mrl.retrieval.planning import plan_gather
        >>> plan_gather(200, 2048, 4, on_host=True)
        2
    """
    budget = GATHER_BYTES if on_host else ROW_BYTES
    together = max(1, budget // max(1, candidates * dim * itemsize))
    return together if queries is None else max(1, min(together, queries))
