"""An array that lies in a file until somebody asks for it."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..dispatch import backend_named

Array: TypeAlias = NDArray[Any]


class Stored(NamedTuple):
    """What is known of an array without reading it: ``dtype`` is a name such as ``"bfloat16"``."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]


class Checkpoint(NamedTuple):
    """The floating arrays of a file by name, and what its header says beside them."""

    arrays: Mapping[str, Stored]
    metadata: Mapping[str, str]


def dtype_named(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name; bfloat16 is that of ``ml_dtypes``.

    Raises:
        ImportError: bfloat16 without ``ml_dtypes``.
    """
    array: Array = backend_named("numpy").from_numpy(np.empty(0, np.float32), dtype=name, device=None)
    return array.dtype


def read_raw(stream: BinaryIO, shape: tuple[int, ...], dtype: str) -> Array:
    """A fresh array of the little-endian numbers that follow in ``stream``, its memory filled in place.

    Raises:
        ValueError: the stream ends before.
    """
    kind = dtype_named(dtype)
    raw = empty_bytes(math.prod(shape) * kind.itemsize)
    view, done = raw.data, 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"expected {len(view)} bytes of an array, got {done}; it was cut short")
        done += count
    unsigned = np.dtype(f"u{kind.itemsize}")
    return raw.view(unsigned.newbyteorder("<")).astype(unsigned, copy=False).view(kind).reshape(shape)


def raw_parts(array: Array) -> Iterator[memoryview]:
    """The numbers of an array, little-endian and in C order, without a copy of more than a part of them."""
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    rows = array.reshape(1) if array.ndim == 0 else array
    step = len(rows) if rows.flags.c_contiguous else 2**20 // max(1, rows[:1].nbytes)
    for start in range(0, len(rows), max(1, step)):
        part = np.ascontiguousarray(rows[start : start + max(1, step)])
        if not part.dtype.isnative:
            part = part.astype(part.dtype.newbyteorder("="))
        part = part.view(unsigned)
        yield part.astype(unsigned.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


def empty_bytes(count: int) -> NDArray[np.uint8]:
    """Memory that starts at a multiple of 64 bytes, where JAX and TensorFlow can use it as it is."""
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]


@contextmanager
def zip_errors() -> Iterator[None]:
    """What the reading of a damaged archive, once it is open, raises, as a ``ValueError``."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, OverflowError) as error:
        raise ValueError(f"expected a whole zip archive, got a damaged or foreign one ({error})") from error


def check_zip(archive: zipfile.ZipFile) -> None:
    """Read all of an archive once, and compare its checksums: who maps or seeks in it looks at none."""
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"expected the archive's checksums, got others in {damaged[:80]!r}; it was damaged")
