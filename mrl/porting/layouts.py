"""Heads in the checkpoints of others: which arrays they are, by what names, and which way round."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..dispatch import backend_named, backend_of, unwrap
from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting
from .checkpoints import read_checkpoint
from .choice import choose
from .convert import convert
from .files import FORMAT, checked_arrays, open_head
from .readings import ROWS, Name, State, widths
from .stored import Checkpoint, Stored

LAYOUTS = ("raivnlab", "linear", "dense", "flax", "mrl")


class Found(NamedTuple):
    """A head, its nesting, and how it was spelled."""

    head: Head
    nesting: Nesting
    layout: str
    prefix: str
    metadata: Mapping[str, str] | None = None


def read_head(
    state: Mapping[Any, Any] | str | PathLike[str],
    nesting: Nesting | None = None,
    *,
    layout: str | None = None,
    prefix: str | None = None,
    backend: str = "numpy",
) -> tuple[Head, Nesting]:
    """The head in a mapping of arrays, or in a file, whatever it is called there.

    Layout and prefix are found where names and shapes leave one possibility. The layouts:

    * ``"raivnlab"``: the paper's code. ``nesting_classifier_{g}.weight|bias``; ``nesting_classifier_0`` alone is MRL-E;
      ``weight|bias`` is MRL-E too.
    * ``"linear"``: ``torch.nn.Linear``, ``weight`` ``(C, D)`` and ``bias``; numbered ones side by side are untied.
    * ``"dense"``: Keras, ``kernel`` ``(D, C)`` and ``bias``, or a layer's ``vars``; numbered ones side by side are
      untied.
    * ``"flax"``: the same names in nested mappings: trees of Linen, states of NNX.
    * ``"mrl"``: ``weight|bias``, or ``weights.{g}`` and ``biases.{g}``.

    A file is read without executing anything in it, and of its arrays no others than the head's: ``.safetensors``,
    ``.npz``, ``.pt``, ``.keras`` and ``.weights.h5``. On a CPU the head may share the memory of the mapping's arrays,
    as after :func:`convert`.

    Args:
        state: arrays of any framework by name, in mappings of any depth; or the path of a file.
        nesting: the granularities. ``None`` takes them from the widths of an untied head, with weights of 1, or from
            a file that :func:`save_head` wrote; a tied head of others tells only its full width.
        layout: which one it is; ``None`` finds it.
        prefix: what stands before the layout's names, such as ``"model.head."``; ``None`` finds it.
        backend: the framework of the head's arrays.

    Returns:
        The head and its nesting.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: no head is there, or several are, or one of two layouts, which the message names; its dims cannot
            be told, or are not the nesting's; or a file is not what its name says.
        OSError: the file cannot be read.
        ImportError: a package that reads such files is not installed.

    Example:
        >>> import mrl, numpy as np
        >>> state = {f"module.fc.nesting_classifier_{g}.weight": np.ones((10, m)) for g, m in enumerate((8, 16))}
        >>> head, nesting = mrl.read_head(state)
        >>> len(head.weights), head.biases, nesting.dims
        (2, None, (8, 16))
        >>> mrl.read_head({"kernel": np.ones((16, 10))}, mrl.Nesting((8, 16)))[0].weight.shape
        (10, 16)

    Source: MRL.py of https://github.com/RAIVNLab/MRL.
    """
    backend_named(backend)
    found = find_head(state, nesting, layout=layout, prefix=prefix)
    return convert(found.head, backend), found.nesting


def write_head(head: Head, nesting: Nesting, *, layout: str, prefix: str = "") -> dict[str, Any]:
    """The arrays of a head, named and shaped as a layout has them.

    The layouts are those of :func:`read_head`. Matrices of an untied head have their numbers in the names: ``0.weight``
    of a ``torch.nn.ModuleList``, ``dense_0/kernel``, ``{"Dense_0": {"kernel": ...}}``. A tied head is
    ``nesting_classifier_0`` to the paper's code, or, with a single granularity, ``weight|bias``. Gradients are not
    carried. Arrays that a layout has the same way round are the head's own.

    Args:
        head: floating arrays of one framework.
        nesting: its granularities.
        layout: ``"raivnlab"``, ``"linear"``, ``"dense"``, ``"flax"`` or ``"mrl"``.
        prefix: what to put before every name, such as ``"model.head."``; of ``"flax"``, mappings around it.

    Returns:
        Arrays of the head's framework by name; of ``"flax"``, in nested dicts.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: an unknown layout, or a head that does not fit the nesting.

    Example:
        >>> import mrl
        >>> nesting = mrl.Nesting((8, 16))
        >>> head = mrl.init_head(nesting, 10, tied=False, backend="numpy", seed=0)
        >>> list(mrl.write_head(head, nesting, layout="raivnlab", prefix="fc."))[:2]
        ['fc.nesting_classifier_0.weight', 'fc.nesting_classifier_0.bias']
        >>> tree = mrl.write_head(head, nesting, layout="flax", prefix="params")
        >>> tree["params"]["Dense_1"]["kernel"].shape
        (16, 10)

    Source: MRL.py of https://github.com/RAIVNLab/MRL.
    """
    check_layout("layout", layout)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected text, got {type(prefix).__name__}; write 'model.head.'")
    opened = checks.head_of(head, nesting, checked_arrays(head, nesting))
    tied = isinstance(opened, TiedHead)
    weights = (opened.weight,) if isinstance(opened, TiedHead) else opened.weights
    biases = (opened.bias,) if isinstance(opened, TiedHead) else opened.biases
    separator = "/" if layout in ("dense", "flax") else "."
    if prefix and not prefix.endswith((".", "/")):
        prefix += separator
    flat: dict[str, Any] = {}
    for g, weight in enumerate(weights):
        array = _turned(weight) if layout in ("dense", "flax") else _detached(weight)
        flat[prefix + _name(layout, tied, len(nesting), g, "weight")] = array
        if biases is not None and biases[g] is not None:
            flat[prefix + _name(layout, tied, len(nesting), g, "bias")] = _detached(biases[g])
    return _nested(flat) if layout == "flax" else flat


def find_head(
    state: Mapping[Any, Any] | str | PathLike[str],
    nesting: Nesting | None = None,
    *,
    layout: str | None = None,
    prefix: str | None = None,
) -> Found:
    """As :func:`read_head`, in NumPy, and how it was spelled."""
    if layout is not None:
        check_layout("layout", layout)
    if nesting is not None:
        checks.check_nesting(nesting)
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix: expected text or None, got {type(prefix).__name__}; write 'model.head.'")
    if not isinstance(state, (str, PathLike)):
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state: expected a mapping of arrays or the path of a file, got {type(state).__name__}; "
                "pass module.state_dict(), or what your framework calls its parameters"
            )
        return _find(flatten(state), nesting, layout, prefix)
    try:
        return find_in(read_checkpoint(state), nesting, layout, prefix)
    except ValueError as error:
        raise ValueError(f"path: {fspath(state)}: {error}") from error


def find_in(
    checkpoint: Checkpoint, nesting: Nesting | None = None, layout: str | None = None, prefix: str | None = None
) -> Found:
    """:func:`find_head` in the arrays of a file, and the nesting too where :func:`save_head` wrote it."""
    if checkpoint.metadata.get("format") != FORMAT:
        return _find(flatten(checkpoint.arrays), nesting, layout, prefix)
    head, saved, metadata = open_head(checkpoint)
    if prefix or layout not in ((None, *ROWS) if isinstance(head, TiedHead) else (None, "mrl")):
        raise ValueError(
            f"layout: expected 'mrl' without a prefix, because save_head wrote it, got {layout!r}, {prefix!r}"
        )
    if nesting is not None:
        checked_arrays(head, nesting)
    return Found(head, nesting or saved, layout or "mrl", "", metadata)


def flatten(tree: Any) -> dict[Name, Any]:
    """The arrays of a tree by the parts of their names; whatever is no array is left out."""
    found: dict[Name, Any] = {}
    for name, leaf in _leaves(tree, ()):
        if name in found:
            raise ValueError(f"state: expected names that differ in more than dots and slashes, got {'.'.join(name)!r}")
        found[name] = leaf
    return found


def check_layout(name: str, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"{name}: expected one of {LAYOUTS}, got {layout!r}; choose one")


def _leaves(tree: Any, name: Name) -> Iterator[tuple[Name, Any]]:
    if isinstance(tree, Stored):
        yield name, tree
        return
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*name, *(part for part in re.split(r"[./]", str(key)) if part)))
        return
    leaf = unwrap(tree)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and name:
        # Saved states of NNX have one name more.
        yield name[:-1] if len(name) > 1 and name[-1] in ("value", "raw_value") else name, leaf


def _find(state: State, nesting: Nesting | None, layout: str | None, prefix: str | None) -> Found:
    reading = choose(state, nesting, layout, prefix)
    if nesting is None and reading.tied:
        raise ValueError(
            f"nesting: expected the granularities of a tied head, got none, and of its {widths(state, reading)[0]} "
            "dimensions its shape tells no more; pass nesting=mrl.Nesting((8, 16, ...)), or --dims 8,16,..."
        )
    read: dict[Any, Any] = {}

    def fetch(name: Name, *, turn: bool = False) -> Any:
        key = id(state[name]), turn
        if key not in read:
            array = state[name].read() if isinstance(state[name], Stored) else convert(state[name], "numpy")
            read[key] = np.ascontiguousarray(array.T) if turn else array
        return read[key]

    weights = tuple(fetch(name, turn=reading.kernels) for name in reading.weights)
    biases = tuple(fetch(name) for name in reading.biases)
    head: Head
    if reading.tied:
        head = TiedHead(weights[0], biases[0] if biases else None)
    else:
        head = NestedHead(weights, biases or None)
        nesting = nesting or Nesting(widths(state, reading))
    assert nesting is not None
    return Found(head, nesting, layout or reading.layouts[0], "".join(f"{part}." for part in reading.prefix))


def _name(layout: str, tied: bool, levels: int, g: int, field: str) -> str:
    leaf = "kernel" if layout in ("dense", "flax") and field == "weight" else field
    if layout == "raivnlab":
        return leaf if tied and levels == 1 else f"nesting_classifier_{g}.{leaf}"
    if tied:
        return leaf
    if layout == "mrl":
        return f"{'weights' if field == 'weight' else 'biases'}.{g}"
    return {"linear": f"{g}.", "dense": f"dense_{g}/", "flax": f"Dense_{g}/"}[layout] + leaf


def _turned(array: Any) -> Any:
    """The transpose, in memory of its own, of the same framework and on the same device."""
    backend = backend_of({"array": array})
    turned = np.ascontiguousarray(convert(array, "numpy").T)
    return backend.from_numpy(turned, dtype=None, device=array.device)


def _detached(array: Any) -> Any:
    return array.detach() if hasattr(array, "detach") else array


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *scopes, leaf = (part for part in re.split(r"[./]", name) if part)
        place = tree
        for scope in scopes:
            place = place.setdefault(scope, {})
        place[leaf] = array
    return tree
