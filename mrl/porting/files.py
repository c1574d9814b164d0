"""A head in a file, with what is needed to use it: its nesting, and whatever else the user writes beside it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

from .. import checks
from ..dispatch import backend_named, settle
from ..files import write_atomically
from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting
from .convert import convert
from .giving import given_away
from .safetensors import read_safetensors, write_safetensors
from .stored import Array, Checkpoint, Stored, raw_parts

FORMAT = "mrl.head"
VERSION = "1"
KEYS = ("format", "version", "dims", "weights", "tied", "dtype", "checksum", "same")


class SavedHead(NamedTuple):
    """What :func:`load_head` finds in a file.

    Attributes:
        head: the :class:`TiedHead` or :class:`NestedHead`.
        nesting: its granularities and their weights.
        metadata: what the user wrote beside them, text by name.

    Example:
        >>> import mrl, numpy as np
        >>> saved = mrl.SavedHead(mrl.TiedHead(np.zeros((10, 16))), mrl.Nesting((8, 16)), {"run": "7"})
        >>> saved.nesting.dims, saved.metadata["run"]
        ((8, 16), '7')
    """

    head: Head
    nesting: Nesting
    metadata: dict[str, str]


def save_head(
    path: str | PathLike[str], head: Head, nesting: Nesting, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a head and its nesting to a safetensors file: whole or not at all.

    The arrays have the names of the layout ``"mrl"``; dims, weights, whether the head is tied, its dtype and the
    version of the format stand in the file's metadata, beside the user's own. What is one array in several places is
    stored once, and is one array again when it is loaded. Beside the head no more memory is needed than the framework
    takes to show it to NumPy, which is none on a CPU.

    Args:
        path: the file, by whatever name; a link stays, and its target is written.
        head: floating arrays of one framework.
        nesting: the granularities; of an untied head, one a matrix.
        metadata: text by name. The names ``format``, ``version``, ``dims``, ``weights``, ``tied``, ``dtype``,
            ``checksum`` and ``same`` are taken.

    Returns:
        Nothing.

    Raises:
        TypeError: an argument of a wrong kind, or metadata that is no text.
        ValueError: a head that does not fit the nesting, or metadata by a name that is taken.
        OSError: the file cannot be written; what was there before is there still.

    Example:
        >>> import mrl, pathlib, tempfile
        >>> nesting, path = mrl.Nesting((8, 16)), pathlib.Path(tempfile.mkdtemp()) / "head.safetensors"
        >>> head = mrl.init_head(nesting, 10, tied=False, backend="numpy", seed=0)
        >>> mrl.save_head(path, head, nesting, metadata={"data": "digits"})
        >>> saved = mrl.load_head(path)
        >>> bool((saved.head.weights[1] == head.weights[1]).all()), saved.nesting == nesting, saved.metadata
        (True, True, {'data': 'digits'})
    """
    write_atomically(path, head_file(head, nesting, metadata))


def load_head(path: str | PathLike[str], *, backend: str = "numpy", device: Any = None) -> SavedHead:
    """The head that :func:`save_head` wrote, and its nesting.

    Every claim of the file is checked before it is believed, and nothing in it is executed.

    Args:
        path: the file.
        backend: the framework of the arrays, whichever wrote them.
        device: where they live, in the framework's own words; ``None`` for its default.

    Returns:
        A :class:`SavedHead`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut short, of another kind, of a later version, or contradicts itself; the message names the
            file and the reason. Or an unknown backend or device.
        TypeError: the backend has no such dtype.
        ImportError: the backend is not installed, or NumPy has no bfloat16 because ``ml_dtypes`` is not.

    Example:
        >>> import mrl, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "head.safetensors"
        >>> _ = path.write_bytes(b"something else")
        >>> mrl.load_head(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: path: ...head.safetensors: expected a header within 14 bytes, ...
    """
    checks.check_device("device", backend_named(backend), device)
    try:
        head, nesting, metadata = open_head(read_safetensors(path))
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    if backend == "tensorflow":
        head = given_away(head, device)
    return SavedHead(convert(head, backend, device=device), nesting, metadata)


def head_file(head: Head, nesting: Nesting, metadata: Mapping[str, str] | None) -> Any:
    """What writes the file of a head to a stream; everything is checked before."""
    given = checked_arrays(head, nesting)
    arrays = convert({_name_in_file(name): array for name, array in given.items()}, "numpy")
    own = {
        "format": FORMAT,
        "version": VERSION,
        "dims": json.dumps(nesting.dims),
        "weights": json.dumps(nesting.weights),
        "tied": json.dumps(isinstance(head, TiedHead)),
        "dtype": ",".join(sorted({array.dtype.name for array in arrays.values()})),
    }
    first: dict[Any, str] = {}
    same = {
        name: known for name, array in arrays.items() if (known := first.setdefault(memory_of(array), name)) != name
    }
    if same:
        own["same"] = json.dumps(same)
    stored = {name: array for name, array in arrays.items() if name not in same}
    own |= _checked_metadata(metadata)
    own["checksum"] = _checksum(own, stored)
    return partial(write_safetensors, arrays=stored, metadata=own)


def checked_arrays(head: Head, nesting: Nesting) -> dict[str, Any]:
    """The arrays of a head by name, unwrapped, after checking that it fits the nesting."""
    checks.check_nesting(nesting)
    names = checks.head_arrays(head, nesting)
    _, arrays = settle(names)
    opened = checks.head_of(head, nesting, arrays)
    width = nesting.width
    if isinstance(opened, TiedHead):
        shape = checks.shape_of("head.weight", opened.weight)
        if len(shape) == 2:
            width = shape[1] or 0
            if width < nesting.width:
                raise ValueError(
                    f"head.weight: expected shape (C, D) with D at least {nesting.width}, got {shape}; "
                    "leave out the larger granularities"
                )
    checks.check_head(opened, arrays, nesting, (width,))
    return arrays


def memory_of(array: Array) -> Any:
    """Equal for two arrays that are the same numbers in the same place."""
    place: Any = array.__array_interface__["data"][0] if array.size else id(array)
    return place, array.shape, array.strides, array.dtype.name


def open_head(checkpoint: Checkpoint) -> tuple[Head, Nesting, dict[str, str]]:
    """The head of a file that :func:`save_head` wrote, read; its nesting; and the user's metadata."""
    nesting, tied = saved_nesting(checkpoint.metadata)
    stored, metadata = dict(checkpoint.arrays), checkpoint.metadata
    for name, known in _same(metadata).items():
        if name in stored or known not in checkpoint.arrays:
            raise ValueError(f"expected 'same' to name arrays of the file, got {name!r}: {known!r}; save it again")
        stored[name] = checkpoint.arrays[known]
    count = len(nesting)
    weights = ["weight"] if tied else [f"weights.{g}" for g in range(count)]
    biases = ["bias"] if tied else [f"biases.{g}" for g in range(count)]
    has_bias = biases[0] in stored
    if set(stored) != {*weights, *(biases if has_bias else ())}:
        raise ValueError(
            f"expected the arrays {weights} and {biases} or none of these, got {str(sorted(stored))[:200]}"
        )
    if ",".join(sorted({array.dtype for array in stored.values()})) != metadata["dtype"]:
        raise ValueError(f"expected arrays of {metadata['dtype'][:40]!r}, got others; save it again")
    _check_shapes(stored, weights, biases if has_bias else [], nesting, tied)
    read = {name: array.read() for name, array in checkpoint.arrays.items()}
    if _checksum(metadata, read) != metadata["checksum"]:
        raise ValueError("expected numbers and metadata that agree with its checksum, got others; it was damaged")
    read |= {name: read[known] for name, known in _same(metadata).items()}
    head: Head
    if tied:
        head = TiedHead(read["weight"], read.get("bias"))
    else:
        head = NestedHead(
            tuple(read[name] for name in weights), tuple(read[name] for name in biases) if has_bias else None
        )
    return head, nesting, {name: value for name, value in metadata.items() if name not in KEYS}


def saved_nesting(metadata: Mapping[str, str]) -> tuple[Nesting, bool]:
    """The nesting of a file that :func:`save_head` wrote, and whether its head is tied."""
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"expected the format {FORMAT!r} in its metadata, got {str(metadata.get('format'))[:40]!r}; "
            "read what others wrote with mrl.read_head"
        )
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"expected version {VERSION!r}, got {str(metadata.get('version'))[:40]!r}; "
            "read it with the mrl that wrote it"
        )
    missing = [name for name in KEYS[:-1] if name not in metadata]
    if missing:
        raise ValueError(f"expected the metadata {list(KEYS[:-1])}, got none of {missing}; save it again")
    dims, weights = (_parsed(name, metadata[name], list) for name in ("dims", "weights"))
    try:
        nesting = Nesting(dims, weights)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a nesting in its metadata, got one in which {error}") from error
    return nesting, _parsed("tied", metadata["tied"], bool)


def _check_shapes(
    stored: Mapping[str, Stored], weights: list[str], biases: list[str], nesting: Nesting, tied: bool
) -> None:
    shape = stored[weights[0]].shape
    if len(shape) != 2 or shape[0] < 1 or (tied and shape[1] < nesting.width):
        raise ValueError(f"array {weights[0]!r}: expected shape (C, D) with D at least {nesting.width}, got {shape}")
    expected: dict[str, tuple[int, ...]]
    expected = {name: (shape[0], dim) for name, dim in zip(weights, nesting.dims, strict=False) if not tied}
    expected |= dict.fromkeys(biases, (shape[0],))
    for name, wanted in expected.items():
        if stored[name].shape != wanted:
            raise ValueError(f"array {name!r}: expected shape {wanted}, got {stored[name].shape}; save it again")


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: expected text by name, got {type(metadata).__name__}; write {{'run': '7'}}")
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"metadata: expected text by name, got {name!r}: {value!r}; write it as text")
        if name in KEYS:
            raise ValueError(f"metadata: expected names other than {KEYS}, got {name!r}; choose another")
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"metadata: expected text, got {name!r}: {value!r} ({error.reason}); repair it") from error
    return dict(metadata)


def _parsed(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if type(value) is not kind:
        raise ValueError(f"expected {name!r} to be a {kind.__name__} of JSON, got {text[:40]!r}; save it again")
    return value


def _same(metadata: Mapping[str, str]) -> dict[str, str]:
    """The arrays that are others of the file by a second name."""
    same: dict[str, str] = _parsed("same", metadata.get("same", "{}"), dict)
    if not all(isinstance(known, str) for known in same.values()):
        raise ValueError(f"expected 'same' to hold names, got {str(same)[:80]}; save it again")
    return same


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    """CRC-32 of everything that a file says, in whichever order it says it."""
    found = zlib.crc32(json.dumps(sorted(item for item in metadata.items() if item[0] != "checksum")).encode())
    for name, array in sorted(arrays.items()):
        found = zlib.crc32(json.dumps([name, array.dtype.name, array.shape]).encode(), found)
        for part in raw_parts(array):
            found = zlib.crc32(part, found)
    return f"{found:08x}"


def _name_in_file(name: str) -> str:
    return name.removeprefix("head.").replace("[", ".").replace("]", "")
