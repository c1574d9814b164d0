"""Files of arrays by name, of every kind: nothing in them is executed, and no array read before it is asked for."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from os import PathLike, fspath
from typing import Any, BinaryIO

import numpy as np

from ..checks import FLOATING
from ..heads import NestedHead, NestedLoss, TiedHead
from ..nesting import Nesting
from .convert import convert
from .keras_files import read_keras, read_weights
from .safetensors import read_safetensors
from .stored import Array, Checkpoint, Stored, check_zip, read_raw, zip_errors

KINDS = (".safetensors", ".npz", ".pt", ".keras", ".weights.h5")
OTHER_NAMES = {".pth": ".pt", ".ckpt": ".pt", ".bin": ".pt", ".h5": ".weights.h5"}


def kind_of(path: str | PathLike[str]) -> str:
    """Which of ``KINDS`` it is, by its name.

    Raises:
        ValueError: none of them.
    """
    name = os.path.basename(fspath(path)).lower()
    for ending in (*KINDS, *OTHER_NAMES):
        if name.endswith(ending):
            return OTHER_NAMES.get(ending, ending)
    raise ValueError(f"expected a name that ends in one of {KINDS}, got {name!r}; rename it")


def read_checkpoint(path: str | PathLike[str], kind: str | None = None) -> Checkpoint:
    """The floating arrays of a file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what its name says; the message gives the reason, and not the file.
        ImportError: a package that reads such files is not installed.
    """
    kind = kind or kind_of(path)
    if kind == ".safetensors":
        return read_safetensors(path)
    readers: dict[str, Callable[[Any], dict[str, Stored]]]
    readers = {".npz": _read_npz, ".pt": _read_torch, ".keras": read_keras, ".weights.h5": read_weights}
    return Checkpoint(readers[kind](path), {})


def write_npz(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def write_torch(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    torch = _torch()
    torch.save(convert(dict(arrays), "torch"), stream)


def _read_npz(path: str | PathLike[str]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    with open(path, "rb") as stream, zip_errors(), zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found:
                raise ValueError(f"expected arrays, each with a name of its own, got {info.filename[:80]!r}")
            # No more than deflate can make of what is there.
            if (
                info.file_size > 1040 * info.compress_size + 1040
                or info.compress_size > os.fstat(stream.fileno()).st_size
            ):
                raise ValueError(f"array {name!r}: expected a size within the file's, got {info.file_size} bytes")
            with archive.open(info) as member:
                shape, dtype, offset = _npy_header(name, member)
            if dtype is None:
                continue
            kind, fortran = dtype
            if offset + math.prod(shape) * np.dtype(kind).itemsize != info.file_size:
                raise ValueError(f"array {name!r}: expected as many numbers as its shape {shape} has, got others")
            label = "bfloat16" if kind == "|V2" else np.dtype(kind).name
            found[name] = Stored(shape, label, partial(_read_npy, path, info.filename, shape, kind, fortran))
    return found


def _npy_header(name: str, member: Any) -> tuple[tuple[int, ...], tuple[str, bool] | None, int]:
    """``(shape, (dtype, Fortran order), bytes of the header)`` of an array; no dtype where it is not floating."""
    try:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            return (), None, 0
        with warnings.catch_warnings(action="ignore"):
            shape, fortran, dtype = read(member)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise
        raise ValueError(f"array {name!r}: expected the header of an array, got another ({error})") from error
    if dtype.hasobject:
        raise ValueError(f"array {name!r}: expected numbers, got objects, which would have to be unpickled")
    kind = "|V2" if dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None else dtype.str  # bfloat16
    if any(size < 0 for size in shape) or (kind != "|V2" and dtype.name not in FLOATING):
        return shape, None, 0
    return tuple(shape), (kind, bool(fortran)), member.tell()


def _read_npy(path: str | PathLike[str], filename: str, shape: tuple[int, ...], kind: str, fortran: bool) -> Array:
    dtype = "bfloat16" if kind == "|V2" else np.dtype(kind).name
    with open(path, "rb") as stream, zip_errors(), zipfile.ZipFile(stream) as archive, archive.open(filename) as member:
        _npy_header(filename, member)
        array = read_raw(member, shape[::-1] if fortran else shape, dtype)  # type: ignore[arg-type]
        if member.read(1):
            raise ValueError(f"array {filename!r}: expected as many numbers as its shape {shape} has, got more")
    if kind.startswith(">"):
        array.view(f"u{array.itemsize}").byteswap(inplace=True)
    return array.T if fortran else array


def _read_torch(path: str | PathLike[str]) -> dict[str, Stored]:
    torch = _torch()
    with open(path, "rb") as stream, zip_errors():
        mapped = zipfile.is_zipfile(stream)
        if mapped:
            with zipfile.ZipFile(stream) as archive:
                check_zip(archive)
    known = [TiedHead, NestedHead, NestedLoss, Nesting]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"expected tensors in a file of PyTorch that loads under weights_only=True, got one that does not "
            f"({type(error).__name__}: {reason}); save module.state_dict()"
        ) from error
    found: dict[str, Stored] = {}
    seen: dict[Any, Stored] = {}
    for name, leaf in _tensors(tree, "", 0):
        dtype = str(leaf.dtype).removeprefix("torch.")
        if dtype not in FLOATING or leaf.layout != torch.strided or leaf.is_meta:
            continue
        key = leaf.data_ptr(), tuple(leaf.shape), leaf.stride(), dtype
        stored = Stored(tuple(leaf.shape), dtype, partial(_fetch, leaf))
        found[name] = seen.setdefault(key, stored) if leaf.numel() else stored
    return found


def _fetch(tensor: Any) -> Array:
    """A copy: the file that a tensor is mapped from may be written to, or go."""
    array: Array = convert(tensor, "numpy")
    return np.array(array, order="C")


def _tensors(tree: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > 100:
        raise ValueError("expected tensors in mappings, got mappings nested too deeply")
    if hasattr(tree, "data_ptr"):
        yield name, tree
        return
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError as error:
        raise ImportError(f".pt files are PyTorch's, which cannot be imported ({error}); pip install torch") from error
