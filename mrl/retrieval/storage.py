"""A prepared database in a file: its prefixes and norms, with the vectors inside or left where they are."""

from __future__ import annotations

import json
import zlib
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from .. import checks
from ..dispatch import backend_named, settle
from ..files import write_atomically
from ..heads import Array
from ..porting.convert import convert
from ..porting.giving import given
from ..porting.safetensors import read_safetensors, write_safetensors
from ..porting.stored import Checkpoint
from .arguments import check_database, check_rows
from .prepared import METRICS, Database, named_arrays, of_named

FORMAT = "mrl.database"
VERSION = "1"
LOOKED_AT = 64
"""Rows by which the vectors that belong to a file are known."""


def save_database(path: str | PathLike[str], database: Database, *, vectors: bool = True) -> None:
    """Write a prepared database to a safetensors file: whole or not at all.

    Args:
        path: the file, by whatever name; a link stays, and its target is written.
        database: what :func:`prepare_database` has made, of any framework.
        vectors: write the vectors too. ``False`` leaves them where they are, in a memory-mapped file, say: the file
            then holds their shape and the checksum of a few of their rows, and :func:`load_database` is given them.

    Returns:
        Nothing.

    Raises:
        TypeError: no :class:`Database`.
        ValueError: one whose parts do not fit each other.
        OSError: the file cannot be written; what was there before is there still.

    Example:
        >>> import mrl, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "database.safetensors"
        >>> rows = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
        >>> mrl.save_database(path, mrl.prepare_database(rows, (8,)), vectors=False)
        >>> mrl.load_database(path, vectors=rows).dims
        (8, 32)
    """
    if not isinstance(database, Database):
        raise TypeError(
            f"database: expected an mrl.Database, got {type(database).__name__}; make it with mrl.prepare_database"
        )
    checks.check_flag("vectors", vectors)
    _, arrays = settle(named_arrays(database))
    opened = of_named(database, arrays)
    check_database(opened, opened.metric, named_arrays(opened))
    rows = opened.vectors
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "metric": opened.metric,
        "dims": json.dumps(opened.dims),
        "rows": json.dumps([*rows.shape, checks.dtype_name(rows)]),
        "looks": look(rows),
    }
    written = {_name_in_file(name): array for name, array in arrays.items() if vectors or name != "database.vectors"}
    content = partial(write_safetensors, arrays=convert(written, "numpy"), metadata=metadata)
    write_atomically(path, lambda stream: content(stream))


def load_database(
    path: str | PathLike[str], *, vectors: Array | None = None, backend: str = "numpy", device: Any = None
) -> Database:
    """The database that :func:`save_database` wrote.

    Args:
        path: the file.
        vectors: ``(N, D)``, the vectors that it was made of, where the file does not hold them: NumPy's or the
            backend's own, memory-mapped if need be.
        backend: the framework of the arrays, whichever wrote them.
        device: where they live, in the framework's own words; ``None`` for its default. Vectors that are given stay
            where they are.

    Returns:
        A :class:`Database`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another kind, cut short or contradicts itself; vectors that are missing or others; or an
            unknown backend or device.
        ImportError: the backend is not installed.

    Example:
        >>> import mrl, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "database.safetensors"
        >>> rows = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
        >>> mrl.save_database(path, mrl.prepare_database(rows, (8,), metric="l2"))
        >>> mrl.load_database(path).metric
        'l2'
    """
    checks.check_device("device", backend_named(backend), device)
    try:
        checkpoint = read_safetensors(path)
        dims = _checked(checkpoint)
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    stored, metric = checkpoint.arrays, checkpoint.metadata["metric"]

    def read(name: str) -> Array:
        return given(stored[name].read(), backend, device)

    if vectors is None:
        if "vectors" not in stored:
            raise ValueError(
                f"vectors: expected the vectors that {path} was made of, which it does not hold, got None; pass them"
            )
        vectors = read("vectors")
    else:
        vectors = settle({"vectors": vectors})[1]["vectors"]
        check_rows("vectors", vectors)
        got = json.dumps([*checks.shape_of("vectors", vectors), checks.dtype_name(vectors)])
        if got != checkpoint.metadata["rows"] or look(vectors) != checkpoint.metadata["looks"]:
            raise ValueError(
                f"vectors: expected those that {path} was made of, {checkpoint.metadata['rows']}, got {got}"
                f"{'' if got != checkpoint.metadata['rows'] else ' with other numbers'}; prepare these anew"
            )
    prefixes = tuple(read(f"prefixes.{i}") for i in range(len(dims) - 1))
    squares = tuple(read(f"squares.{i}") for i in range(len(dims))) if metric == "l2" else None
    return Database(vectors, prefixes, read("norms") if metric == "cosine" else None, squares)


def _checked(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The dims of a file whose arrays and metadata agree."""
    metadata = checkpoint.metadata
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"expected the format {FORMAT!r}, version {VERSION!r}, got {str(metadata.get('format'))[:40]!r}, "
            f"{str(metadata.get('version'))[:40]!r}; save it with mrl.save_database"
        )
    try:
        dims, (count, width, dtype) = json.loads(metadata["dims"]), json.loads(metadata["rows"])
        metric = metadata["metric"]
        known = metric in METRICS and "looks" in metadata and all(type(x) is int for x in (*dims, count, width))
        known = known and sorted(set(dims)) == dims and dims[-1] == width
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        known = False
    if not known:
        raise ValueError("expected metadata of a database, got other; save it again")
    expected: dict[str, tuple[int, ...]] = {f"prefixes.{i}": (count, m) for i, m in enumerate(dims[:-1])}
    expected |= {"norms": (count,)} if metric == "cosine" else {}
    expected |= {f"squares.{i}": (count,) for i in range(len(dims))} if metric == "l2" else {}
    shapes = {name: array.shape for name, array in checkpoint.arrays.items()}
    vectors = checkpoint.arrays.get("vectors")
    if vectors is not None:
        expected["vectors"] = (count, width)
    if shapes != expected or (vectors is not None and vectors.dtype != dtype):
        raise ValueError(f"expected arrays of shapes {str(expected)[:200]}, got {str(shapes)[:200]}; save it again")
    return tuple(dims)


def look(rows: Array) -> str:
    """CRC-32 of a few rows, evenly spread: what vectors that are not in a file are known by."""
    places = sorted({int(i) for i in np.linspace(0, max(0, rows.shape[0] - 1), LOOKED_AT)}) if rows.shape[0] else []
    found = 0
    for place in places:
        found = zlib.crc32(np.ascontiguousarray(convert(rows[place], "numpy")).tobytes(), found)
    return f"{found:08x}"


def _name_in_file(name: str) -> str:
    return name.removeprefix("database.").replace("[", ".").replace("]", "")
