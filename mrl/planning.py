"""How many rows and levels a fused loss works on at a time: planned once, in pure Python, for every backend."""

from __future__ import annotations

ENOUGH_ROWS = 512
"""Rows at which the products of a chunk run at full speed; more of them only keep more memory busy."""

EVEN_ROWS = 32
"""Chunks have a multiple of it where that fills up next to nothing: a product of 121 rows is slower than of 128."""

HOST_BUDGET_BYTES = (16 << 20, 128 << 20, 256 << 20)
"""Workspace of one chunk on a CPU: what it may always use, what it may use to reach ``ENOUGH_ROWS``, and what it may
use to be the only one: a second one adds to a gradient of the head that is no longer in a cache."""

ACCELERATOR_BUDGET_BYTES = (256 << 20, 1 << 30, 1 << 30)
"""The same on an accelerator, where a small product leaves most of the device idle."""

UNKNOWN_ROWS = 1 << 20
"""The most of a chunk where the rows are not known yet: sums of such numbers have to fit the integers of a graph."""

LEVELS_TOGETHER = 4
"""Levels whose logits are in memory at once, where starting over for the others is cheap."""

CHEAP_SHARE = 1 / 16
"""Of the width: columns that may be multiplied twice so that fewer levels are in memory."""

SMALL_BYTES = 1 << 20
"""Logits of all levels whose memory is nothing, and the starting of operations all the time they take."""

ORDINARY, NOTHING, MOST = 40, -60, 55
"""Exponents of float32: rows whose entries lie between ``2**-40`` and ``2**40`` are taken as they are; a prefix without
an entry of ``2**-60`` has a norm below the smallest that is normalised; products of ``2**55`` can be added up."""


def is_small(levels: int, level_bytes: int) -> bool:
    """Whether all levels are best worked on together, in as few operations as can be."""
    return levels * level_bytes <= SMALL_BYTES


def plan_groups(dims: tuple[int, ...], level_bytes: int) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of levels that a tied head's loss works on together, the largest levels first.

    ``level_bytes`` are those of one level's logits, all rows. Within a group each level adds a block of columns to
    the one before; its first level starts over from the first column. The groups below need the sum of the gradients
    above, which takes the place of a level.

    Example:
        >>> from mrl.planning import plan_groups
        >>> plan_groups((8, 16, 32, 64, 128, 256, 512, 1024, 2048), level_bytes=1 << 20)
        ((5, 9), (2, 5), (0, 2))
        >>> plan_groups((100, 200, 300, 400, 500, 600), level_bytes=1 << 20)
        ((0, 6),)
    """
    if is_small(len(dims), level_bytes):
        return ((0, len(dims)),)
    groups, stop, most = [], len(dims), LEVELS_TOGETHER
    while stop > 0:
        start = max(0, stop - most)
        while start > 0 and dims[start - 1] > CHEAP_SHARE * dims[-1]:
            start -= 1
        groups.append((start, stop))
        stop, most = start, LEVELS_TOGETHER - 1
    return tuple(groups)


def plan_places(groups: tuple[tuple[int, int], ...]) -> int:
    """How many ``(chunk, classes)`` arrays the groups need: their levels, and the sum of those above.

    Example:
        >>> from mrl.planning import plan_places
        >>> plan_places(((5, 9), (2, 5), (0, 2)))
        4
    """
    return max(stop - start + (stop < groups[0][1]) for start, stop in groups)


def plan_chunk_rows(
    buffers: int,
    rows: int | None,
    classes: int,
    itemsize: int,
    *,
    on_host: bool,
    chunk_rows: int | None = None,
    buffers_alone: int | None = None,
) -> int:
    """The rows of one chunk of a fused loss, whose workspace is ``(buffers, chunk, classes)``.

    Within the first budget a chunk takes all the rows it can; past it, no more than ``ENOUGH_ROWS``, within the
    second, or, where these are all there are, the third. Chunks divide the rows where any of about that size does:
    rows that fill up the last one cost a copy of the embeddings. Otherwise they are multiples of ``EVEN_ROWS``, or,
    where that would waste work, evened out so that the last one is not a sliver. A caller's own ``chunk_rows`` is
    taken as it is. Any chunk gives the same loss.

    Args:
        buffers: how many ``(chunk, classes)`` arrays the backend holds at once: about as many as granularities,
            or few where they are worked on one after the other.
        rows: the number of examples, or ``None`` where it is not known yet.
        classes: ``C``.
        itemsize: bytes of one accumulated value.
        on_host: whether the arrays live in a CPU's memory.
        chunk_rows: the caller's wish.
        buffers_alone: how many arrays it holds where all rows are one chunk, if not as many.

    Example:
        >>> from mrl.planning import plan_chunk_rows
        >>> plan_chunk_rows(buffers=9, rows=1000, classes=1000, itemsize=4, on_host=True)
        500
    """
    if chunk_rows is not None:
        return min(chunk_rows, UNKNOWN_ROWS) if rows is None else max(1, min(chunk_rows, rows))
    always, at_most, alone = HOST_BUDGET_BYTES if on_host else ACCELERATOR_BUDGET_BYTES
    row_bytes = buffers * classes * itemsize
    chunk = max(1, always // row_bytes, min(ENOUGH_ROWS, at_most // row_bytes))
    if rows is None:
        return chunk - chunk % EVEN_ROWS if chunk % EVEN_ROWS < chunk / 4 else chunk
    all_bytes = rows * (buffers_alone or buffers) * classes * itemsize
    if all_bytes <= (alone if rows <= ENOUGH_ROWS else always):
        return max(1, rows)
    chunk = min(chunk, -(-rows // 2))
    chunks, least = -(-rows // chunk), 3 * chunk // 4 + 1
    exact = [rows // count for count in range(chunks, rows // least + 1) if rows % count == 0]
    if exact:
        return max(exact, key=lambda size: (size % EVEN_ROWS == 0, size))
    evens = range(chunk - chunk % EVEN_ROWS, least - 1, -EVEN_ROWS)
    return next((even for even in evens if -rows % even <= rows // EVEN_ROWS), -(-rows // chunks))
