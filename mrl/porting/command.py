"""``mrl convert``: a head from one file to another, and the check that it arrived."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .. import spec
from ..checks import dtype_name
from ..files import write_atomically
from ..heads import Head, TiedHead, head_classes, head_leaves
from ..nesting import Nesting
from .checkpoints import kind_of, read_checkpoint, write_npz, write_torch
from .files import head_file
from .keras_files import names_in_keras, write_keras, write_weights
from .layouts import Found, check_layout, find_head, find_in, write_head
from .safetensors import write_safetensors

ROWS = 16
UNIT_ROUNDOFF = 2.0**-53
KERAS = (".keras", ".weights.h5")


class Agreement(NamedTuple):
    """The largest difference of two heads' logits of a seeded batch, and the bound that is nearest to it."""

    difference: float
    bound: float
    exact: bool


def convert_file(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    from_layout: str | None = None,
    to_layout: str | None = None,
    dims: str | None = None,
) -> list[str]:
    """Carry the head of one file to another, and say what was found and how it arrived.

    The new file is read again, and logits compared, before it takes its name: an error leaves nothing of it.

    Raises:
        OSError, ValueError, ImportError: a file cannot be read or written.
    """
    kind = _kind("OUT", target)
    _kind("IN", source)
    if from_layout is not None:
        check_layout("--from-layout", from_layout)
    layout = ("dense" if kind in KERAS else "mrl") if to_layout is None else to_layout
    check_layout("--to-layout", layout)
    if kind in KERAS and layout != "dense":
        raise ValueError(f"--to-layout: expected 'dense', which {kind} files have, got {layout!r}; leave it out")
    found = find_head(source, _nesting(dims), layout=from_layout)
    arrived: list[Agreement] = []

    def write(stream: BinaryIO) -> None:
        _write(stream, found, kind, layout)
        stream.flush()
        again = find_in(read_checkpoint(stream.name, kind), found.nesting, layout)
        arrived.append(compare(found.head, again.head, found.nesting))

    write_atomically(target, write)
    return [f"{fspath(source)}: {describe(found)}", f"{fspath(target)}: layout {layout!r}", _told(arrived[0])]


def describe(found: Found) -> str:
    """Layout, prefix, kind, classes, dims and dtype of a head, in one line."""
    kind = "a tied head (MRL-E)" if isinstance(found.head, TiedHead) else "an untied head (MRL)"
    dtypes = ", ".join(sorted({dtype_name(leaf) for leaf in head_leaves(found.head)}))
    dims = ",".join(str(dim) for dim in found.nesting.dims)
    return (
        f"layout {found.layout!r}, prefix {found.prefix!r}: {kind} of {head_classes(found.head)} classes, "
        f"dims {dims}, {dtypes}"
    )


def compare(before: Head, after: Head, nesting: Nesting) -> Agreement:
    """How near the logits of two heads are in float64, for a batch that is the same on every machine.

    With ``u = 2^-53`` each may be off by ``gamma(m + 1) (|z| |W|^T + |b|)``, so the two by twice that.

    Raises:
        ValueError: they are further apart.
    """
    width = before.weight.shape[1] if isinstance(before, TiedHead) else nesting.width
    z = np.random.default_rng(0).normal(size=(ROWS, width))
    size = type(before)(*(_absolute(field) for field in before))
    with np.errstate(all="ignore"):
        first, second = (spec.nested_logits(z, head, nesting) for head in (before, after))
        roundings = (nesting.width + 1) * UNIT_ROUNDOFF
        bound = 2 * roundings / (1 - roundings) * spec.nested_logits(np.abs(z), size, nesting)
        difference = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, np.abs(first - second))
    if not (difference <= np.nan_to_num(bound)).all():
        raise ValueError(
            f"the head that was written gives other logits: largest difference {np.max(difference)}; nothing is kept"
        )
    leaves = zip(head_leaves(before), head_leaves(after), strict=True)
    exact = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in leaves)
    worst = np.unravel_index(np.argmax(difference - np.nan_to_num(bound)), bound.shape)
    return Agreement(float(difference[worst]), float(bound[worst]), exact)


def _told(found: Agreement) -> str:
    bits = ", and the heads bit for bit" if found.exact else ""
    return (
        f"Logits of {ROWS} seeded rows agree before and after: largest difference {found.difference:.3g} within the "
        f"bound {found.bound:.3g}{bits}."
    )


def _write(stream: BinaryIO, found: Found, kind: str, layout: str) -> None:
    head, nesting = found.head, found.nesting
    if kind == ".keras":
        write_keras(stream, head)
    elif kind == ".weights.h5":
        write_weights(stream, names_in_keras(head))
    elif kind == ".safetensors" and layout == "mrl":
        head_file(head, nesting, found.metadata)(stream)
    else:
        arrays = _flat(write_head(head, nesting, layout=layout))
        if kind == ".safetensors":
            write_safetensors(stream, arrays, {"format": "pt"} if layout in ("linear", "raivnlab") else {})
        else:
            (write_npz if kind == ".npz" else write_torch)(stream, arrays)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


def _absolute(field: Any) -> Any:
    if field is None:
        return None
    wide = [np.abs(np.asarray(x, np.float64)) for x in (field if isinstance(field, tuple) else (field,))]
    return tuple(wide) if isinstance(field, tuple) else wide[0]


def _kind(name: str, path: str | PathLike[str]) -> str:
    try:
        return kind_of(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _nesting(dims: str | None) -> Nesting | None:
    if dims is None:
        return None
    try:
        return Nesting([int(dim) for dim in dims.split(",")])
    except ValueError as error:
        raise ValueError(
            f"--dims: expected growing positive integers such as 8,16,32, got {dims!r} ({error})"
        ) from error
