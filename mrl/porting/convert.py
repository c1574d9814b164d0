"""From one framework to another: arrays, trees of arrays, and heads made from a seed."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..dispatch import backend_named, backend_of, known_backends, unwrap
from ..heads import Array, Head, NestedHead, TiedHead
from ..nesting import Nesting
from ..protocol import Backend


class BackendInfo(NamedTuple):
    """A backend that can be used here.

    Attributes:
        name: what ``backend=`` takes.
        version: of its framework.
        devices: the devices that it sees, as ``device=`` takes them.

    Example:
        >>> import mrl
        >>> mrl.BackendInfo("numpy", "2.4.6", ("cpu",)).devices
        ('cpu',)
    """

    name: str
    version: str
    devices: tuple[str, ...]


def available_backends() -> tuple[BackendInfo, ...]:
    """The backends that can be used here, with their versions and devices.

    Asks each framework for its devices, and so imports every one that is installed. A framework that is
    not installed is left out; one that is installed and fails to import raises.

    Returns:
        One :class:`BackendInfo` per backend, NumPy first.

    Raises:
        ImportError: a plug-in is broken; the message names its distribution.

    Example:
        >>> import mrl
        >>> mrl.available_backends()[0].name
        'numpy'
    """
    found = []
    for name in known_backends():
        try:
            backend = backend_named(name)
        except ImportError as error:
            if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == name:
                continue
            raise
        found.append(BackendInfo(name, getattr(sys.modules[name], "__version__", "unknown"), backend.devices()))
    return tuple(found)


def convert(tree: Any, backend: str, *, device: Any = None) -> Any:
    """Every array of a tree, as an array of another framework with the same values and dtype.

    Heads, tuples, named tuples and lists keep their structure, mappings become dicts; ``None``, numbers of Python
    and strings pass through, numbers of NumPy are arrays without axes. What is one array in several places stays one.
    On a CPU, NumPy shares memory with every framework, and PyTorch with NumPy and TensorFlow, so treat the original as
    handed over: writing to one may change the other. JAX and TensorFlow copy what they are given, and PyTorch what JAX
    holds constant. From one accelerator's framework to another's, arrays go through the host. Gradients are not
    carried. What is an array of the target already, and not asked for on a ``device``, is returned as it is.

    Args:
        tree: arrays, possibly of several frameworks, in any nesting of containers.
        backend: ``"numpy"``, ``"torch"``, ``"jax"``, ``"tensorflow"`` or a plug-in's name.
        device: where the arrays shall live, in the target framework's own words; ``None`` for its default.

    Returns:
        A tree of the same structure.

    Raises:
        TypeError: a leaf that is neither an array nor a plain value, or a traced array, or of a dtype that the
            target has not.
        ValueError: an unknown backend or device, or float64 and int64 for a JAX without 64-bit numbers.
        ImportError: the backend is not installed.

    Example:
        >>> import mrl, numpy as np
        >>> mrl.convert({"head": mrl.TiedHead(np.ones((2, 3)))}, "numpy")["head"].weight.shape
        (2, 3)
    """
    target = backend_named(backend)
    checks.check_device("device", target, device)
    # What is one array stays one: a token embedding and the head that is tied to it. By identity, beside the original,
    # which keeps its address taken.
    moved: dict[int, tuple[Any, Any]] = {}

    def move(leaf: Any, path: str) -> Any:
        plain = leaf is None or isinstance(leaf, (bool, int, float, complex, str, bytes))
        if plain and not isinstance(leaf, np.number):  # NumPy's float64 is a float of Python's, its float32 is none
            return leaf
        kind: Any = leaf.__class__  # of what a proxy stands for: TensorFlow wraps what is an attribute of a module
        if isinstance(leaf, tuple) and hasattr(leaf, "_fields"):
            return kind(*(move(v, f"{path}.{k}") for k, v in zip(leaf._fields, leaf, strict=True)))
        if isinstance(leaf, (tuple, list)):
            values = [move(value, f"{path}[{i}]") for i, value in enumerate(leaf)]
            return list(values) if kind.__module__.startswith("tensorflow.") else kind(values)
        if isinstance(leaf, Mapping):
            return {key: move(value, f"{path}[{key!r}]") for key, value in leaf.items()}
        if id(leaf) not in moved:
            moved[id(leaf)] = leaf, _moved(unwrap(leaf), path, target, device)
        return moved[id(leaf)][1]

    return move(tree, "tree")


def _moved(array: Any, path: str, target: Backend, device: Any) -> Any:
    source = backend_of({path: array})
    if source is target and device is None:
        return array
    try:
        if source is not target:
            array = source.to_numpy(array, blocking=True)
            array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        return target.from_numpy(array, dtype=None, device=device)
    except (TypeError, ValueError) as error:  # of a dtype, say, that the target has not
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{path}: {error}") from error


def init_head(
    nesting: Nesting,
    classes: int,
    *,
    tied: bool,
    backend: str,
    seed: int | None = None,
    key: Any = None,
    dtype: str = "float32",
    device: Any = None,
) -> Head:
    """A new head, from a seed the same numbers in every framework.

    Each matrix of width ``m`` and its bias are drawn evenly from ``[-1/sqrt(m), 1/sqrt(m)]``, as a fresh
    ``torch.nn.Linear(m, classes)`` is; the draw is NumPy's, from ``seed``, or JAX's, from ``key``.

    Args:
        nesting: the granularities, ``m_1 ... m_G``.
        classes: ``C``, at least 1.
        tied: a :class:`TiedHead` of one ``(C, m_G)`` matrix, else a :class:`NestedHead`.
        backend: the framework of the arrays.
        seed: a non-negative integer.
        key: in its place, a key of ``jax.random``, which may be traced: under ``jax.vmap`` over keys, each member of
            an ensemble has a head of its own.
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
        device: where the arrays live, in the framework's own words; ``None`` for its default.

    Returns:
        The head: one weight ``(C, m_G)``, or one ``(C, m_g)`` for each granularity, with biases ``(C,)``.

    Raises:
        TypeError: an argument of a wrong kind; both ``seed`` and ``key``, or neither; a key for a framework without.
        ValueError: no classes, a negative seed, an unknown backend, dtype or device.
        ImportError: the backend is not installed.

    Example:
        >>> import mrl
        >>> head = mrl.init_head(mrl.Nesting((8, 16)), 10, tied=True, backend="numpy", seed=0)
        >>> head.weight.shape, head.weight.dtype.name
        ((10, 16), 'float32')

    Source: the default of ``torch.nn.Linear``.
    """
    checks.check_nesting(nesting)
    classes = checks.check_integer("classes", classes, at_least=1)
    checks.check_flag("tied", tied)
    if dtype not in checks.FLOATING:
        raise ValueError(f"dtype: expected one of {checks.FLOATING}, got {dtype!r}; name it as a string")
    target = backend_named(backend)
    checks.check_device("device", target, device)
    if key is None:
        draw = partial(_from_seed, checks.check_integer("seed", seed, at_least=0), target)
    elif seed is not None:
        raise TypeError("key: expected a seed or a key, got both; leave out one")
    elif not hasattr(target, "uniform"):
        raise TypeError(f"key: expected None for {backend}, got {type(key).__name__}; pass seed=, or backend='jax'")
    else:
        draw = partial(target.uniform, key)
    widths = (nesting.width,) if tied else nesting.dims
    shapes = tuple(shape for width in widths for shape in ((classes, width), (classes,)))
    bounds = tuple(1 / math.sqrt(width) for width in widths for _ in range(2))
    arrays = draw(shapes, bounds=bounds, dtype=dtype, device=device)
    return TiedHead(*arrays) if tied else NestedHead(arrays[0::2], arrays[1::2])


def _from_seed(
    seed: int,
    target: Backend,
    shapes: tuple[tuple[int, ...], ...],
    *,
    bounds: tuple[float, ...],
    dtype: str,
    device: Any,
) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    drawn = (rng.uniform(-bound, bound, shape) for shape, bound in zip(shapes, bounds, strict=True))
    # Rounded to half precision from float32, as some frameworks do by themselves.
    kind = np.float64 if dtype == "float64" else np.float32
    return tuple(target.from_numpy(x.astype(kind), dtype=dtype, device=device) for x in drawn)
