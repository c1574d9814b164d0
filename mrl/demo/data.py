"""Images to learn from: scikit-learn's digits, which it brings along, or Fashion-MNIST's IDX files from a folder."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NAMES = ("digits", "fashion-mnist")
UNSIGNED_BYTE = 0x08  # the only element type these files have


class Split(NamedTuple):
    """``images`` (N, P) float32 in [0, 1], one flattened image a row; ``labels`` (N,) int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


class Dataset(NamedTuple):
    """Three disjoint parts: to train on, to fit what comes after training on, and to report on."""

    name: str
    train: Split
    held_out: Split
    test: Split

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1


def load(name: str, data_dir: Path | None, seed: int) -> Dataset:
    """The data called ``name``; what is split is split by class and from ``seed``.

    Raises:
        ValueError: an unknown name, a missing or superfluous folder, or a file that is not what it should be.
        OSError: a file that is missing or cannot be read.
        ImportError: scikit-learn is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"--data: expected one of {NAMES}, got {name!r}; choose one")
    if name == "digits":
        if data_dir is not None:
            raise ValueError(f"--data-dir: digits come with scikit-learn, got {data_dir}; leave it out")
        train, test = stratified(_digits(), 0.2, seed)
        train, held_out = stratified(train, 0.25, seed + 1)
        return Dataset(name, train, held_out, test)
    if data_dir is None:
        raise ValueError("--data-dir: expected the folder with fashion-mnist's four IDX files, got none; name it")
    train, held_out = stratified(read_pair(data_dir, "train"), 0.1, seed)
    return Dataset(name, train, held_out, read_pair(data_dir, "t10k"))


def stratified(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """``share`` of each class apart from the rest, at random; both in random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(split.labels))
    apart = np.zeros(len(order), bool)
    for label in np.unique(split.labels):
        of_class = order[split.labels[order] == label]
        apart[of_class[: round(share * len(of_class))]] = True
    rest, taken = order[~apart[order]], order[apart[order]]
    return Split(split.images[rest], split.labels[rest]), Split(split.images[taken], split.labels[taken])


def read_pair(folder: Path, part: str) -> Split:
    """Images and labels of ``part`` (``"train"`` or ``"t10k"``), from files that may be gzipped."""
    images = read_idx(_existing(folder, f"{part}-images-idx3-ubyte"), axes=3)
    labels = read_idx(_existing(folder, f"{part}-labels-idx1-ubyte"), axes=1)
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"{folder}: expected as many {part} images as labels, got {len(images)} and {len(labels)}")
    return Split(images.reshape(len(images), -1).astype(np.float32) / np.float32(255), labels.astype(np.int64))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of an IDX file: two zero bytes, the element type, the number of axes, their lengths, the elements.

    Raises:
        ValueError: another element type or number of axes, or more or fewer bytes than the header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got one that cannot be read: {error}") from error
    wanted = bytes((0, 0, UNSIGNED_BYTE, axes))
    if content[:4] != wanted:
        raise ValueError(f"{path}: expected an IDX file that starts with {wanted.hex()}, got {content[:4].hex()}")
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes, got {len(content)}; the file is cut off")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: expected {math.prod(shape)} bytes for shape {shape}, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder}: expected {name} or {name}.gz there, got neither; is it the right folder?")


def _digits() -> Split:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"the digits come with scikit-learn ({error}); run pip install 'mrl[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    return Split((images / 16).astype(np.float32), labels.astype(np.int64))
