"""Pages of a mapped file that have been read, given back to the system: they are the file's again, not a process's."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAPS = Path("/proc/self/maps")
HELD_BYTES = 128 << 20
"""What may have been read before it is given back; of arrays that are smaller nothing is."""

AROUND = 64 << 10
"""What the system maps around a page that is read."""


class Mapping(NamedTuple):
    """Addresses of a file's pages, and whether what is written there stays this process's own."""

    start: int
    end: int
    own: bool


def giver_back(address: int, size: int) -> Callable[[int], None]:
    """What is told how many bytes of an array have been read, and gives its pages back if it lies in a mapped file.

    Where it lies in none, and where the system is not Linux, it does nothing. No number is lost by it: pages that are
    read again come from the file. A private mapping that has been written to keeps all of its pages, because what was
    written is nowhere else; nobody may write to it meanwhile.

    Args:
        address: where the array starts.
        size: its bytes.
    """
    found = _mapping_of(address, size) if size > HELD_BYTES else None
    if found is None:
        return lambda _: None
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
    advise, held = ctypes.CDLL(None).madvise, 0

    def give_back(read: int) -> None:
        nonlocal held
        held += read
        if held > HELD_BYTES:
            held = 0
            if not found.own or not _written_to(found):
                advise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)

    return give_back


def _mapping_of(address: int, size: int) -> Mapping | None:
    """The mapped file that an array lies in as a whole."""
    if not MAPS.exists() or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    for line in MAPS.read_text(errors="replace").splitlines():
        span, access, _, _, inode, *_ = line.split(maxsplit=5)
        start, end = (int(edge, 16) for edge in span.split("-"))
        if start <= address < end:
            fits = inode != "0" and address + size <= end
            return Mapping(start, end, access.endswith("p")) if fits else None
    return None


def _written_to(mapping: Mapping) -> bool:
    """Whether a private mapping has pages that are no longer the file's, in memory or swapped out."""
    wanted, counts = f"{mapping.start:x}-{mapping.end:x} ", []
    with MAPS.with_name("smaps").open(errors="replace") as lines:
        for line in lines:
            if line.startswith(wanted):
                break
        for line in lines:
            if line.startswith(("Anonymous:", "Swap:")):
                counts.append(int(line.split()[1]))
            if len(counts) == 2:
                break
    return counts != [0, 0]
