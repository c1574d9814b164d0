"""Memory that a file is mapped to, read through a mapping of one's own, whose pages can be given back at any time."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAPS = Path("/proc/self/maps")
WORTH_BYTES = 64 << 20
"""Smaller arrays are read where they are."""

HELD_BYTES = 64 << 20
"""What may have been read before it is given back."""

AROUND = 2 << 20
"""What the system may map around a byte that is read: a folio, on a recent Linux."""


class Mapping(NamedTuple):
    """Addresses that part of a file is mapped to, and whether what is written there stays this process's own."""

    start: int
    end: int
    own: bool
    offset: int
    device: str
    inode: int
    path: str


@dataclass
class Reading:
    """The bytes of an array in its file: ``memory[offset:]``, in a mapping that nobody else has."""

    memory: mmap.mmap
    offset: int
    held: int = 0

    def give_back(self, read: int) -> None:
        """Take note that so many bytes have been read; give pages back to the system where they have become many."""
        self.held += read
        if self.held > HELD_BYTES:
            self.memory.madvise(mmap.MADV_DONTNEED)  # which would lose what was written here, if anything were
            self.held = 0


def read_through(address: int, size: int) -> Reading | None:
    """A mapping of the file that an array lies in; ``None`` where it lies in none, or is no longer what the file has.

    Pages that are read count as a process's. They cannot be given back where the array lies: what somebody has written
    to a private mapping would be lost. So they are read elsewhere, if nobody has.

    Only Linux tells where a mapping lies.

    Args:
        address: where the array starts.
        size: its bytes.
    """
    found = _mapping_of(address, size) if size >= WORTH_BYTES and MAPS.exists() else None
    if found is None or (found.own and _written_to(found)):
        return None
    try:
        with open(found.path, "rb") as file:
            status = os.fstat(file.fileno())
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            if (device, status.st_ino) != (found.device, found.inode):
                return None
            length = min(found.end - found.start, status.st_size - found.offset)
            offset = address - found.start
            if offset + size > length:
                return None
            # Writable, though nobody writes: PyTorch warns of memory that is not.
            return Reading(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=found.offset), offset)
    except (OSError, ValueError):  # it is no longer there, say, or not ours to open
        return None


def _mapping_of(address: int, size: int) -> Mapping | None:
    """The mapped file that an array lies in as a whole."""
    for line in MAPS.read_text(errors="replace").splitlines():
        span, access, offset, device, inode, *path = line.split(maxsplit=5)
        start, end = (int(edge, 16) for edge in span.split("-"))
        if start <= address < end:
            if inode == "0" or not path or address + size > end:
                return None
            return Mapping(start, end, access.endswith("p"), int(offset, 16), device, int(inode), path[0])
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
