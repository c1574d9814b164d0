"""Arrays that stay in their file: ``.npy``, and members of ``.npz`` that are stored as they are."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def map_array(path: str | PathLike[str], name: str | None = None) -> Array:
    """An array of a file, memory-mapped: its rows are read where they are used, and may be larger than memory.

    ``np.load(mmap_mode="r")`` maps ``.npy`` files only, and reads a whole member of an ``.npz``. ``np.savez`` stores
    members as they are, so that they can be mapped in place too.

    Args:
        path: a file as ``np.save`` or ``np.savez`` writes it, by whatever name.
        name: of the member of an ``.npz``; ``None`` where it has one.

    Returns:
        A ``numpy.memmap``, read-only. :func:`search`, :func:`prepare_database` and :func:`report` take it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such array, or is cut short; or a member is compressed, as ``np.savez_compressed`` does,
            or holds objects.

    Example:
        >>> import mrl, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows.npz"
        >>> np.savez(path, rows=np.eye(4, dtype=np.float32), labels=np.arange(4))
        >>> rows = mrl.map_array(path, "rows")
        >>> type(rows).__name__, mrl.search(rows, rows, k=1).indices.ravel().tolist()
        ('memmap', [0, 1, 2, 3])
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            if name is not None:
                raise ValueError(f"expected an .npz to have a member {name!r}, got another kind of file")
            with path.open("rb") as stream:
                return _mapped(path, stream, path.stat().st_size)
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            member = archive.getinfo(_chosen(name, archive.namelist()))
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"expected {member.filename} to be stored as it is, got it compressed; use np.savez")
            stream.seek(member.header_offset)
            header = stream.read(30)  # of which the name and the extra field, whose lengths it has, follow
            skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            stream.seek(member.header_offset + 30 + skipped)
            return _mapped(path, stream, stream.tell() + member.file_size)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: {path}: {error}") from error


def _mapped(path: Path, stream: BinaryIO, end: int) -> Array:
    """The array whose header the stream is at."""
    major, _ = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("expected numbers, got objects, which only pickle reads; save numbers")
    start, size = stream.tell(), dtype.itemsize * int(np.prod(shape, dtype=object))
    if start + size > end:
        raise ValueError(f"expected {size} bytes for shape {shape}, got {end - start}; it was cut short")
    if size == 0:  # which no file can be mapped to
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if in_columns else "C")


def _chosen(name: str | None, members: list[str]) -> str:
    names = [member.removesuffix(".npy") for member in members]
    if name is None and len(names) == 1:
        return members[0]
    if name not in names:
        raise ValueError(f"expected the name of one of {sorted(names)[:20]}, got {name!r}")
    return members[names.index(name)]
