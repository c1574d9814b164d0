"""The weights of Keras: ``.weights.h5``, and the same inside of a ``.keras`` archive, read without Keras."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from os import PathLike
from typing import Any, BinaryIO

import numpy as np

from ..checks import FLOATING
from ..heads import Head, TiedHead
from .stored import Array, Stored, check_zip, dtype_named, zip_errors

WEIGHTS = "model.weights.h5"


def read_weights(path: str | PathLike[str]) -> dict[str, Stored]:
    """The variables of a ``.weights.h5`` file, ``layers/dense/vars/0`` and so on."""
    with open(path, "rb") as stream:
        return _variables(stream, partial(open, path, "rb"))


def read_keras(path: str | PathLike[str]) -> dict[str, Stored]:
    """The variables of the model in a ``.keras`` archive; what builds the model is not looked at."""
    with _member(path) as stream:
        return _variables(stream, partial(_member, path))


def write_weights(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Variables by their path in a ``.weights.h5`` file."""
    with tempfile.TemporaryFile() as space, _h5py().File(space, "w") as file:
        for name, array in arrays.items():
            if array.dtype.name == "bfloat16":  # as Keras has it
                variable = file.create_dataset(name, data=array.view("V2"))
                variable.attrs["dtype"] = "bfloat16"
            else:
                file.create_dataset(name, data=array)
        file.flush()
        space.seek(0)
        while part := space.read(2**20):
            stream.write(part)


def names_in_keras(head: Head) -> dict[str, Array]:
    """The variables of a model of one ``Dense`` a matrix, by their path in its weights."""
    weights = (head.weight,) if isinstance(head, TiedHead) else head.weights
    biases = (head.bias,) if isinstance(head, TiedHead) else head.biases or (None,) * len(weights)
    found = {}
    for g, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        scope = f"layers/dense_{g}/vars" if g else "layers/dense/vars"
        found[f"{scope}/0"] = np.ascontiguousarray(weight.T)
        if bias is not None:
            found[f"{scope}/1"] = bias
    return found


def write_keras(stream: BinaryIO, head: Head) -> None:
    """A model that maps embeddings to logits, as Keras itself saves it: one ``Dense`` a matrix."""
    keras = _keras()
    tied = isinstance(head, TiedHead)
    weights = (head.weight,) if isinstance(head, TiedHead) else head.weights
    biases = (head.bias,) if isinstance(head, TiedHead) else head.biases
    z = keras.Input((weights[-1].shape[1],), name="z")
    logits = []
    for g, weight in enumerate(weights):
        bias = None if biases is None else biases[g]
        name = "logits" if tied else f"logits_{g}"
        dense = keras.layers.Dense(len(weight), use_bias=bias is not None, dtype=weight.dtype.name, name=name)
        logits.append(dense(z[:, : weight.shape[1]] if g + 1 < len(weights) else z))
        dense.set_weights([weight.T] if bias is None else [weight.T, bias])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "head.keras")
        keras.Model(z, logits[0] if tied else logits, name="head").save(path)
        with open(path, "rb") as saved:
            while part := saved.read(2**20):
                stream.write(part)


@contextmanager
def _member(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    with open(path, "rb") as whole, zip_errors(), zipfile.ZipFile(whole) as archive:
        if WEIGHTS not in archive.namelist():
            raise ValueError(f"expected {WEIGHTS!r} in the archive, got {str(archive.namelist())[:80]}; is it Keras'?")
        check_zip(archive)
        info = archive.getinfo(WEIGHTS)
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as stream:
                yield stream  # type: ignore[misc]
        else:
            yield io.BytesIO(archive.read(info))


def _variables(stream: Any, again: Any) -> dict[str, Stored]:
    """The floating datasets of an HDF5 file, read ``again`` when they are asked for."""
    found: dict[str, Stored] = {}
    with _hdf5_errors(), _h5py().File(stream, "r") as file:
        for name, dataset in _datasets(file, "", 0):
            dtype = dataset.attrs.get("dtype", dataset.dtype.name)
            dtype = dtype.decode() if isinstance(dtype, bytes) else str(dtype)
            if dtype == "bfloat16" and dataset.dtype.itemsize != 2:
                raise ValueError(f"variable {name!r}: expected two bytes a number of bfloat16, got {dataset.dtype}")
            if dtype != "bfloat16":
                dtype = dataset.dtype.name
            if dtype in FLOATING:
                found[name] = Stored(tuple(dataset.shape), dtype, partial(_read, again, name, dtype))
    return found


def _datasets(group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    h5py = _h5py()
    if depth > 100:
        raise ValueError("expected variables in groups, got groups nested too deeply")
    for name in group:
        full = f"{path}/{name}" if path else name
        # Links out of the file, or in a circle, are how a file would read what it was not given.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{full!r}: expected a variable or a group, got a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, full, depth + 1)
        elif isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise ValueError(f"{full!r}: expected a variable of this file, got one that lies in another")
            yield full, item


def _read(again: Any, name: str, dtype: str) -> Array:
    with again() as stream, _hdf5_errors(), _h5py().File(stream, "r") as file:
        kind = dtype_named(dtype)
        array = np.empty(file[name].shape, "V2" if dtype == "bfloat16" else kind)
        if array.size:
            file[name].read_direct(array)
    return array.view(kind)


@contextmanager
def _hdf5_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, MemoryError, OverflowError, UnicodeError) as error:
        raise ValueError(f"expected the HDF5 of Keras, got a damaged or foreign file ({error})") from error


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise ImportError(f"weights of Keras are HDF5, which needs h5py ({error}); pip install h5py") from error


def _keras() -> Any:
    try:
        return import_module("keras")
    except ImportError as error:
        raise ImportError(f"a .keras file is written by Keras, which cannot be imported ({error})") from error
