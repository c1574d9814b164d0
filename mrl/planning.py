"""How many rows a fused loss works on at a time: planned once, in pure Python, for every backend."""

from __future__ import annotations

ENOUGH_ROWS = 256
"""Rows at which the products of a chunk run at full speed; more of them only keep more memory busy."""

HOST_BUDGET_BYTES = (12 << 20, 128 << 20)
"""Workspace of one chunk on a CPU: what it may always use, and what it may use to reach ``ENOUGH_ROWS``."""

ACCELERATOR_BUDGET_BYTES = (256 << 20, 1 << 30)
"""The same on an accelerator, where a small product leaves most of the device idle."""


def plan_chunk_rows(
    buffers: int,
    rows: int | None,
    classes: int,
    itemsize: int,
    *,
    on_host: bool,
    chunk_rows: int | None = None,
) -> int:
    """The rows of one chunk of a fused loss, whose workspace is ``(buffers, chunk, classes)``.

    Within the first budget a chunk takes all the rows it can; past it, no more than ``ENOUGH_ROWS``, within
    the second. Chunks are evened out so that the last one is not a sliver. A caller's own ``chunk_rows`` is
    taken as it is. Any chunk gives the same loss.

    Args:
        buffers: how many ``(chunk, classes)`` arrays the backend holds at once: about as many as granularities,
            or few where they are worked on one after the other.
        rows: the number of examples, or ``None`` where it is not known yet.
        classes: ``C``.
        itemsize: bytes of one accumulated value.
        on_host: whether the arrays live in a CPU's memory.
        chunk_rows: the caller's wish.

    Example:
        >>> from mrl.planning import plan_chunk_rows
        >>> plan_chunk_rows(buffers=9, rows=1000, classes=1000, itemsize=4, on_host=True)
        334
    """
    if chunk_rows is not None:
        return chunk_rows if rows is None else max(1, min(chunk_rows, rows))
    always, at_most = HOST_BUDGET_BYTES if on_host else ACCELERATOR_BUDGET_BYTES
    row_bytes = buffers * classes * itemsize
    chunk = max(1, always // row_bytes, min(ENOUGH_ROWS, at_most // row_bytes))
    if rows is None:
        return chunk
    chunks = max(1, -(-rows // chunk))
    return max(1, -(-rows // chunks))
