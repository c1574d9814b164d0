"""Rotations and adaptors in files."""

from __future__ import annotations

from functools import partial
from os import PathLike
from typing import Any

from .. import checks
from ..dispatch import backend_named
from ..files import write_atomically
from ..porting.convert import convert
from ..porting.safetensors import read_safetensors, write_safetensors
from .adaptor import Adaptor
from .rotation import Rotation

FORMAT, VERSION = "mrl.transform", "1"
KINDS: dict[str, type[Rotation] | type[Adaptor]] = {"rotation": Rotation, "adaptor": Adaptor}


def save_transform(path: str | PathLike[str], transform: Rotation | Adaptor) -> None:
    """Write a rotation or an adaptor to a safetensors file: whole or not at all.

    Args:
        path: the file, by whatever name; a link stays, and its target is written.
        transform: what :func:`fit_rotation` or :func:`fit_adaptor` made, of any framework.

    Returns:
        Nothing.

    Raises:
        TypeError: something else.
        OSError: the file cannot be written; what was there before is there still.

    Example:
        >>> import mrl, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rotation.safetensors"
        >>> rotation = mrl.fit_rotation(np.random.default_rng(0).normal(size=(100, 4)))
        >>> mrl.save_transform(path, rotation)
        >>> bool((mrl.load_transform(path).axes == rotation.axes).all())
        True
    """
    kind = next((name for name, of_kind in KINDS.items() if isinstance(transform, of_kind)), None)
    if kind is None:
        raise TypeError(
            f"transform: expected an mrl.Rotation or mrl.Adaptor, got {type(transform).__name__}; fit one with "
            "mrl.fit_rotation or mrl.fit_adaptor"
        )
    arrays = convert(transform, "numpy")._asdict()
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind}
    write_atomically(path, partial(write_safetensors, arrays=arrays, metadata=metadata))


def load_transform(path: str | PathLike[str], *, backend: str = "numpy", device: Any = None) -> Rotation | Adaptor:
    """The rotation or adaptor that :func:`save_transform` wrote.

    Args:
        path: the file.
        backend: the framework of the arrays, whichever wrote them.
        device: where they live, in the framework's own words; ``None`` for its default.

    Returns:
        A :class:`Rotation` or :class:`Adaptor`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another kind, cut short or contradicts itself; or an unknown backend or device.
        ImportError: the backend is not installed.

    Example:
        >>> import mrl, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rotation.safetensors"
        >>> mrl.save_transform(path, mrl.fit_rotation(np.random.default_rng(0).normal(size=(100, 4))))
        >>> mrl.load_transform(path).mean.shape
        (4,)
    """
    checks.check_device("device", backend_named(backend), device)
    try:
        checkpoint = read_safetensors(path)
        metadata = checkpoint.metadata
        made = KINDS.get(str(metadata.get("kind")))
        if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION) or made is None:
            raise ValueError(
                f"expected the format {FORMAT!r}, version {VERSION!r}, got {str(metadata.get('format'))[:40]!r}, "
                f"{str(metadata.get('version'))[:40]!r}; save it with mrl.save_transform"
            )
        shapes = {name: array.shape for name, array in checkpoint.arrays.items()}
        if set(shapes) != set(made._fields) or not _fit(made, shapes):
            raise ValueError(f"expected the arrays {made._fields} of one width, got {str(shapes)[:200]}; save it again")
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    return made(*(convert(checkpoint.arrays[name].read(), backend, device=device) for name in made._fields))


def _fit(made: type[Rotation] | type[Adaptor], shapes: dict[str, tuple[int, ...]]) -> bool:
    if made is Rotation:
        width = shapes["mean"]
        return len(width) == 1 and shapes["variances"] == width and shapes["axes"] == width * 2
    hidden, width = shapes["hidden_bias"], shapes["bias"]
    fits = shapes["hidden_weight"] == hidden + width and shapes["weight"] == width + hidden
    return len(hidden) == len(width) == 1 and fits
