"""Embeddings, labels and relevant rows from files, memory-mapped where their kind allows."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import FLOATING
from ..mapped import map_array
from ..porting.safetensors import read_safetensors
from ..porting.stored import zip_errors

Array = NDArray[Any]

KINDS = (".npy", ".npz", ".parquet", ".safetensors")


def read_array(option: str, given: str) -> Array:
    """The array of a file; ``file:name`` is one of several by its name, in ``.parquet`` a column.

    Nothing in a file is executed: pickled objects are refused.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what its name says, or holds no array or several; the message names the option and file.
        ImportError: ``.parquet`` without pyarrow, or bfloat16 without ml_dtypes.
    """
    path, name = parted(given)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{option}: expected a file that ends in one of {KINDS}, got {given!r}; convert it")
    if name and kind == ".npy":
        raise ValueError(f"{option}: expected no name after a .npy file, which holds one array, got {given!r}")
    if not path.exists():
        raise ValueError(f"{option}: expected a file, got {str(path)!r}, which does not exist; check the path")
    if path.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder {str(path)!r}; name the file in it")
    readers: dict[str, Callable[[Path, str | None], Array]] = {
        ".npy": read_npy,
        ".npz": read_npz,
        ".parquet": read_parquet,
        ".safetensors": read_tensor,
    }
    try:
        return readers[kind](path, name)
    except ValueError as error:
        raise ValueError(f"{option}: {path}: {error}") from error


def parted(given: str) -> tuple[Path, str | None]:
    """A path, and the name after its last colon, if there is one."""
    path = Path(given)
    before, colon, name = given.rpartition(":")
    if colon and not path.exists() and Path(before).suffix.lower() in KINDS:
        return Path(before), name
    return path, None


def read_npy(path: Path, name: str | None) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"expected an array as np.save writes it, got another file ({one_line(error)})") from error
    if not isinstance(found, np.ndarray):
        raise ValueError("expected an array as np.save writes it, got an archive; call it .npz")
    return found


def read_npz(path: Path, name: str | None) -> Array:
    if not zipfile.is_zipfile(path):
        raise ValueError("expected an archive as np.savez writes it, got another file; it was cut short, or is a .npy")
    with zip_errors(), np.load(path, allow_pickle=False) as archive:
        member = chosen(name, archive.files)
        with suppress(ValueError):  # compressed: what cannot be mapped is read
            return map_array(path, member)
        return np.asarray(archive[member])


def read_tensor(path: Path, name: str | None) -> Array:
    stored = read_safetensors(path).arrays
    found = stored[chosen(name, list(stored))]
    if found.dtype not in FLOATING:
        raise ValueError(f"expected a dtype of {FLOATING}, got {found.dtype}")
    return found.read()


def read_parquet(path: Path, name: str | None) -> Array:
    """A column: numbers or strings, or lists of numbers that are equally long."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f".parquet files need pyarrow ({error}); run pip install 'mrl[report]'") from error
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            lists = [field.name for field in schema if is_list(pyarrow, field.type)]
            column = chosen(name, schema.names if name or len(schema.names) == 1 or not lists else lists)
            parts = [of_column(pyarrow, batch.column(0)) for batch in file.iter_batches(columns=[column])]
    except pyarrow.ArrowException as error:
        raise ValueError(f"expected a file of Parquet, got another ({one_line(error)})") from error
    if not parts:
        raise ValueError(f"expected rows in column {column!r}, got none")
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(f"expected lists of one length in column {column!r}, got several")
    return np.concatenate(parts)


def is_list(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def of_column(pyarrow: Any, column: Any) -> Array:
    if column.null_count:
        raise ValueError(f"expected a value in every row, got {column.null_count} without; fill or drop them")
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_list(pyarrow, column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = column.flatten()
    if flat.null_count:
        raise ValueError("expected a number in every place of a list, got places without; fill or drop them")
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    if len(column) and len(values) % len(column):
        raise ValueError("expected lists of one length, got several")
    width = len(values) // max(1, len(column))
    if not pyarrow.types.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if (lengths != width).any():
            raise ValueError(f"expected lists of one length, got {lengths.min()} to {lengths.max()}")
    return values.reshape(len(column), width)


def read_texts(option: str, given: str) -> list[str]:
    """The lines of a file, one text each."""
    try:
        lines = Path(given).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: expected text in UTF-8, got other bytes in {given!r} ({error})") from error
    if not lines:
        raise ValueError(f"{option}: expected a text a line, got an empty file, {given!r}")
    return lines


def read_labels(option: str, given: str) -> Any:
    """Labels: an array, or the lines of a ``.txt`` file."""
    return read_texts(option, given) if given.lower().endswith(".txt") else read_array(option, given)


def encode(texts: list[str], model: str, *, progress: bool) -> Array:
    """Embeddings of texts by a sentence-transformers folder, each once."""
    if not Path(model).is_dir():
        raise ValueError(f"--model: expected the folder of a sentence-transformers model, got {model!r}; save it there")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"--model needs sentence-transformers ({error}); run pip install 'mrl[sentence-transformers]'"
        ) from error
    try:
        loaded = SentenceTransformer(model, local_files_only=True)
    except Exception as error:  # whatever a damaged folder brings about
        raise ValueError(
            f"--model: expected a sentence-transformers model in {model!r}, got {one_line(error)}"
        ) from error
    found: Array = loaded.encode(texts, show_progress_bar=progress, convert_to_numpy=True)
    return found


def chosen(name: str | None, names: list[str]) -> str:
    if name is None:
        if len(names) != 1:
            raise ValueError(f"expected one array, got {sorted(names)[:20]}; write the name after a colon, file:name")
        return names[0]
    if name not in names:
        raise ValueError(f"expected one of {sorted(names)[:20]}, got {name!r}")
    return name


def one_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:200]
