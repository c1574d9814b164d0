"""The rows that are measured on, read a chunk at a time; and what one pass over all of them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .planning import plan_chunk

Array = NDArray[Any]
Float = NDArray[np.float32]
Track = Callable[[Iterable[Any]], Iterable[Any]]


SCATTERED = 2048
"""Rows that are read from all over a file before its pages are let go."""


class Rows:
    """Rows ``kept`` of embeddings, or all of them, in float32."""

    def __init__(self, vectors: Array, kept: NDArray[np.int64] | None = None) -> None:
        self.vectors, self.kept = vectors, kept
        self.width = int(vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors) if self.kept is None else len(self.kept)

    def take(self, positions: NDArray[np.int64]) -> Float:
        """Those at some positions, in memory of their own."""
        found = positions if self.kept is None else self.kept[positions]
        order = np.argsort(found, kind="stable")  # a file is read from its beginning to its end
        taken = np.empty((len(found), self.width), np.float32)
        # Around each row that is read the system maps more of the file, which counts until it is let go.
        for start in range(0, len(order), SCATTERED):
            part = order[start : start + SCATTERED]
            taken[part] = self.vectors[found[part]]
            let_go(self.vectors)
        return taken

    def chunks(self, track: Track = iter) -> Iterator[tuple[int, Float]]:
        """The position of the first row of each chunk, and the chunk."""
        step = plan_chunk(self.width)
        for start in track(range(0, len(self), step)):
            part = slice(start, start + step)
            yield start, np.asarray(self.vectors[part if self.kept is None else self.kept[part]], np.float32)
            let_go(self.vectors)


class Scan(NamedTuple):
    """What one pass over all rows shows.

    Attributes:
        finite: ``(N,)`` whether a row has neither NaN nor infinity.
        norms: ``(N,)`` its length.
        constant: the dimensions that are the same in all finite rows.
        repeated: how many rows are equal to one before them.
        equal: how many of the rows have another that is equal.
    """

    finite: NDArray[np.bool_]
    norms: Float
    constant: NDArray[np.int64]
    repeated: int
    equal: int


def scan(vectors: Array, track: Track = iter) -> Scan:
    """Read every row once: numbers that are none, lengths, constant dimensions, and rows that are equal."""
    count, width = vectors.shape
    finite, norms = np.empty(count, bool), np.empty(count, np.float32)
    marks = np.empty(count, np.uint64)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    keys = np.random.default_rng(0).integers(0, 2**64, width, np.uint64) | np.uint64(1)
    step, block = plan_chunk(width), max(16, 2**16 // width)
    for start in track(range(0, count, step)):
        part = slice(start, start + step)
        x = np.array(vectors[part], order="C")
        known = x.dtype.name in ("float16", "float32", "float64")
        x = x.astype(x.dtype.newbyteorder("=") if known else np.float32, copy=False)
        bits = x.view(f"u{x.dtype.itemsize}")
        with np.errstate(all="ignore"):
            for first in range(0, len(x), block):  # which stays in a cache
                some = x[first : first + block]
                some += 0  # -0 becomes 0
                wide = some.astype(np.float64)
                at = slice(start + first, start + first + len(some))
                norms[at] = np.sqrt(np.einsum("nd,nd->n", wide, wide))
                marks[at] = mixed(bits[first : first + block], keys)
        finite[part] = np.isfinite(norms[part])
        good = x if finite[part].all() else x[finite[part]]
        if len(good):
            low, high = np.minimum(low, good.min(0)), np.maximum(high, good.max(0))
        let_go(vectors)
    _, counts = np.unique(marks[finite], return_counts=True)
    return Scan(
        finite,
        norms,
        np.flatnonzero(low == high),
        int((counts - 1).sum()),
        int(counts[counts > 1].sum()),
    )


def mixed(bits: Array, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A mark for every row, by which unequal ones differ but for chance of one in 2^60."""
    words = bits.astype(np.uint64)
    words ^= words >> np.uint64(17)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(29)
    words *= keys
    words ^= words >> np.uint64(32)
    words *= np.uint64(0xD6E8FEB86659FD93)
    total: NDArray[np.uint64] = words.sum(1, dtype=np.uint64)
    return total


def let_go(vectors: Array) -> None:
    """Pages of a mapped file that have been read are the file's again, and no memory of the process."""
    mapped = getattr(vectors, "_mmap", None)
    # A private copy would lose what somebody wrote to it.
    if mapped is not None and hasattr(mapped, "madvise") and getattr(vectors, "mode", "c") != "c":
        import mmap

        mapped.madvise(mmap.MADV_DONTNEED)
