"""From an array's type to the backend that computes on it. No framework is imported to ask."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np

from .protocol import FURTHER_KERNELS, KERNELS, Backend

GROUP = "mrl.backends"
"""The entry-point group of third-party backends; an entry's name is the root package of its array type."""

BUILTIN = ("numpy", "torch", "jax", "tensorflow")

ROOTS = {"numpy": "numpy", "torch": "torch", "jax": "jax", "jaxlib": "jax", "tensorflow": "tensorflow"}
# Memos of what a type or a name says, never configuration. No tensor of PyTorch reaches them: what torch.compile reads
# while it traces it guards, and a memo that grew would have the user's whole graph compiled anew.
_NAME_OF_TYPE: dict[type, str] = {}
_LOADED_PLUG_INS: dict[str, Backend] = {}


def backend_of(arguments: Mapping[str, Any], *, one_device: bool = True) -> Backend:
    """The one backend whose arrays ``arguments`` (name -> array) are.

    ``one_device`` is for what is computed there, and not fetched from wherever it lies.

    Raises:
        TypeError: an argument is no array, or two of them belong to different frameworks.
        ValueError: tensors of PyTorch on different devices.
        ImportError: the backend's framework, or a plug-in, cannot be imported.
    """
    found = None
    # Not by the type's name and bases, which torch.compile cannot read of a Parameter. Without PyTorch it is no type.
    tensor: Any = getattr(sys.modules.get("torch"), "Tensor", ())
    for name, array in arguments.items():
        if isinstance(array, tensor):
            backend = "torch"
        else:
            backend = _NAME_OF_TYPE.get(type(array)) or _remember(name, array)
        if found is None:
            found = backend
        elif backend != found:
            raise TypeError(
                "arguments: expected arrays of one framework, got "
                + ", ".join(f"{key}: {_type_name(value)}" for key, value in arguments.items())
                + "; bring them together with mrl.convert(tree, backend)"
            )
    if found is None:
        raise TypeError("arguments: expected at least one array, got none; pass the arrays to work on")
    if one_device and found == "torch" and len(arguments) > 1:
        _check_devices(arguments)
    return _load(found)


def settle(arguments: Mapping[str, Any]) -> tuple[Backend, dict[str, Any]]:
    """The one backend of ``arguments``, and these as arrays of its own.

    What wraps an array, as ``flax.nnx.Variable`` and ``keras.Variable`` do, is opened. NumPy arrays beside those of a
    backend that takes them, as the functions of JAX and TensorFlow do, become its own.

    Raises:
        TypeError, ValueError, ImportError: as :func:`backend_of`.
    """
    opened = {name: unwrap(array) for name, array in arguments.items()}
    strange = {name: array for name, array in opened.items() if not isinstance(array, (np.ndarray, np.generic))}
    if not 0 < len(strange) < len(opened):
        return backend_of(opened), opened
    backend = backend_of(strange)
    if not hasattr(backend, "take_numpy") or "take_numpy" in getattr(backend, "lacks", ()):
        return backend_of(opened), opened  # which says that there are two
    beside = {name: array for name, array in opened.items() if name not in strange}
    backend_of(beside)  # says what is no plain array
    return backend, {name: backend.take_numpy(array) if name in beside else array for name, array in opened.items()}


def device_of(array: Any) -> Any:
    """Of PyTorch's tensors, which work with none on another device; ``None`` of other frameworks' arrays."""
    tensor: Any = getattr(sys.modules.get("torch"), "Tensor", ())
    return array.device if isinstance(array, tensor) else None


def unwrap(array: Any) -> Any:
    """The array inside of what holds one and is none itself, told by how it gives it out; else what came."""
    if isinstance(array, getattr(sys.modules.get("torch"), "Tensor", ())) or type(array) in _NAME_OF_TYPE:
        return array
    if type(array).__module__.partition(".")[0] in ROOTS:
        return array
    get = getattr(array, "get_value", None)
    held = get() if callable(get) else getattr(array, "value", None)
    return held if hasattr(held, "shape") and hasattr(held, "dtype") else array


def backend_named(name: str) -> Backend:
    """The backend called ``name``: a built-in one or a plug-in's entry point.

    Raises:
        TypeError: ``name`` is not a string.
        ValueError: there is no such backend.
        ImportError: it cannot be imported.
    """
    if not isinstance(name, str):
        raise TypeError(f"backend: expected a name such as 'torch', got {name!r}; choose from {known_backends()}")
    if name not in known_backends():
        raise ValueError(f"backend: expected one of {known_backends()}, got {name!r}; install a plug-in for others")
    return _load(name)


def register(backend: str) -> None:
    """Make a backend known to its framework, before anything of mrl's has been called with an array.

    The first such call does this by itself. It is for a process that reads what another wrote: in PyTorch
    ``torch.export.load`` of a program with mrl's operators, and ``torch.load(weights_only=True)`` of heads,
    nestings, losses and policies.

    Args:
        backend: ``"numpy"``, ``"torch"``, ``"jax"``, ``"tensorflow"`` or a plug-in's name.

    Returns:
        Nothing.

    Raises:
        TypeError: ``backend`` is not a string.
        ValueError: an unknown backend.
        ImportError: the backend is not installed.

    Example:
        >>> import mrl
        >>> mrl.register("numpy")
    """
    backend_named(backend)


def known_backends() -> tuple[str, ...]:
    """The built-in names, then those that installed plug-ins add."""
    return (*BUILTIN, *sorted(set(_plug_ins()) - set(BUILTIN)))


def lacks(name: str, kernel: str) -> bool:
    """Whether the backend called ``name`` is a plug-in that leaves ``kernel`` out."""
    return kernel in getattr(backend_named(name), "lacks", ())


def _check_devices(tensors: Mapping[str, Any]) -> None:
    """PyTorch moves no tensor by itself, and gives numbers from nowhere for one on ``meta`` beside one that is not."""
    devices = [tensor.device for tensor in tensors.values()]
    if any(device != devices[0] for device in devices):
        raise ValueError(
            "arguments: expected tensors on one device, got "
            + ", ".join(f"{name}: {device}" for name, device in zip(tensors, devices, strict=True))
            + "; move them with .to(device)"
        )


def _remember(name: str, array: Any) -> str:
    backend = _find(type(array))
    # What is ragged, sparse or only the description of an array has a shape and a dtype too.
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, which no framework has, got {_type_name(array)}; "
            "fill it with array.filled(value), or leave the rows out"
        )
    known = hasattr(array, "shape") and hasattr(array, "dtype")
    if backend is None or not known or (backend in BUILTIN and not hasattr(array, "__array__")):
        raise TypeError(
            f"{name}: expected an array of one of {known_backends()}, got {_type_name(array)}; convert it, for "
            "example with numpy.asarray, or pass the array that it holds"
        )
    _NAME_OF_TYPE[type(array)] = backend
    return backend


def _find(kind: type) -> str | None:
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in ROOTS:
            return ROOTS[root]
        if root != "builtins" and root in _plug_ins():
            return root
    return None


def _load(name: str) -> Backend:
    if name in BUILTIN:
        return _load_builtin(name)
    loaded = _LOADED_PLUG_INS.get(name)
    if loaded is None:
        loaded = _LOADED_PLUG_INS[name] = _load_plug_in(_plug_ins()[name])
    return loaded


def _load_builtin(name: str) -> Backend:
    # Plain import statements, one a backend: torch.compile traces through these and not through importlib.
    module: ModuleType
    try:
        if name == "torch":
            from .backends import torch as module
        elif name == "jax":
            from .backends import jax as module
        elif name == "tensorflow":
            from .backends import tensorflow as module
        else:
            from .backends import numpy as module
    except ImportError as error:
        if (error.name or "").startswith("mrl"):
            raise ImportError(
                "mrl.backends cannot be found: mrl is imported from a source tree that is not installed; "
                "run 'pip install -e .' in it, or start Python from another folder"
            ) from error
        raise ImportError(f"backend {name!r} cannot be imported ({error}); run pip install 'mrl[{name}]'") from error
    return cast(Backend, module)


def _load_plug_in(entry: EntryPoint) -> Backend:
    owner = f"backend {entry.name!r} of the distribution {entry.dist.name if entry.dist else 'unknown'!r}"
    try:
        module = entry.load()
    except Exception as error:
        raise ImportError(
            f"{owner} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; "
            "repair or uninstall that distribution"
        ) from error
    missing = [kernel for kernel in KERNELS if not callable(getattr(module, kernel, None))]
    if missing:
        raise ImportError(
            f"{owner} ({entry.value}) lacks {', '.join(missing)}; a backend provides all of mrl.protocol.KERNELS"
        )
    absent = frozenset(kernel for kernel in FURTHER_KERNELS if not callable(getattr(module, kernel, None)))
    further = {
        kernel: _lacking(kernel, owner) if kernel in absent else getattr(module, kernel) for kernel in FURTHER_KERNELS
    }
    kernels = {kernel: getattr(module, kernel) for kernel in KERNELS}
    driver = getattr(module, "driver", None)  # how the proof kit takes gradients
    return cast(Backend, SimpleNamespace(**kernels, **further, lacks=absent, driver=driver))


def _lacking(kernel: str, owner: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{owner} lacks {kernel}; convert the arrays to another backend with mrl.convert")

    return (lambda: ()) if kernel == "devices" else refuse


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
