"""Every check of an argument, and every message, once for all backends."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from .heads import Array, Head, NestedHead, TiedHead
from .nesting import Nesting, is_sequence
from .protocol import Backend

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REDUCTIONS = ("mean", "sum", "none")

# A memo: asking NumPy for a dtype's name costs over a microsecond. The dtypes of others stay out of it, because
# torch.compile cannot trace a dictionary that holds TensorFlow's.
_DTYPE_NAMES: dict[np.dtype[Any], str] = {}


def check_nesting(nesting: Nesting) -> None:
    if not isinstance(nesting, Nesting):
        raise TypeError(
            f"nesting: expected an mrl.Nesting, got {nesting!r} of type {type(nesting).__name__}; "
            "write mrl.Nesting((8, 16, 32))"
        )


def head_arrays(head: Head, nesting: Nesting) -> dict[str, Array]:
    """The arrays of a head by name, after checking that it is one and has one entry per granularity."""
    if isinstance(head, TiedHead):
        arrays = {"head.weight": head.weight}
        if head.bias is not None:
            arrays["head.bias"] = head.bias
        return arrays
    if not isinstance(head, NestedHead):
        raise TypeError(
            f"head: expected an mrl.TiedHead or mrl.NestedHead, got {type(head).__name__}; "
            "wrap the arrays, for example mrl.TiedHead(weight, bias)"
        )
    arrays = {}
    for field, group in (("weights", head.weights), ("biases", head.biases)):
        if group is None and field == "biases":
            continue
        if not isinstance(group, (tuple, list)):
            if group is None or not is_sequence(group) or hasattr(group, "dtype"):
                raise TypeError(
                    f"head.{field}: expected a tuple of one array per granularity, got {type(group).__name__}; "
                    f"write tuple({field}), or use mrl.TiedHead for a single matrix"
                )
            group = tuple(group)  # a torch.nn.ParameterList, say
        if len(group) != len(nesting):
            raise ValueError(
                f"head.{field}: expected one array per granularity ({len(nesting)}), got {len(group)}; "
                "make the head with mrl.init_head for this nesting"
            )
        for g, array in enumerate(group):
            arrays[f"head.{field}[{g}]"] = array
    return arrays


def head_of(head: Head, nesting: Nesting, arrays: Mapping[str, Array]) -> Head:
    """The head that :func:`head_arrays` took apart, of the arrays that have its names in ``arrays``."""
    if isinstance(head, TiedHead):
        return TiedHead(arrays["head.weight"], None if head.bias is None else arrays["head.bias"])
    weights, biases = (
        tuple(arrays[f"head.{field}[{g}]"] for g in range(len(nesting))) if group is not None else None
        for field, group in (("weights", head.weights), ("biases", head.biases))
    )
    return NestedHead(weights or (), biases)


def check_floating(name: str, array: Array) -> None:
    dtype = dtype_name(array)
    if dtype not in FLOATING:
        raise TypeError(f"{name}: expected a dtype of {FLOATING}, got {dtype}; cast it first")


def check_embedding(name: str, z: Array, width: int) -> tuple[int | None, ...]:
    """The shape of ``z``, ``(..., D)`` with ``D >= width`` and a floating dtype."""
    check_floating(name, z)
    shape = shape_of(name, z)
    if not shape:
        raise ValueError(f"{name}: expected shape (..., D), got a scalar; give it at least one axis")
    if shape[-1] is None:
        raise ValueError(f"{name}: expected a known last axis, got shape {shape}; state D in the TensorSpec")
    if shape[-1] < width:
        raise ValueError(
            f"{name}: expected shape (..., D) with D at least {width}, got {tuple(shape)}; "
            "widen the embedding or leave out the larger granularities"
        )
    return shape


def check_device(name: str, backend: Backend, device: Any) -> None:
    """A device that the backend can put an array on, named in its framework's words; ``None`` is its default."""
    if device is None:
        return
    try:
        backend.from_numpy(np.zeros(1, np.float32), dtype=None, device=device)
    except Exception as error:  # each framework has its own kind
        raise ValueError(
            f"{name}: expected a device such as {backend.devices()}, got {device!r} ({error}); choose one"
        ) from error


def check_dim(name: str, dim: int, z: Array) -> None:
    """A prefix of ``dim`` dimensions, of an embedding ``z`` that has as many."""
    width = check_embedding("z", z, 1)[-1]
    if width is not None and dim > width:
        raise ValueError(f"{name}: expected an integer in [1, {width}], the last axis of z, got {dim}; choose one")


def check_head(head: Head, arrays: Mapping[str, Array], nesting: Nesting, embedding: tuple[int | None, ...]) -> int:
    """The number of classes ``C`` of a head whose arrays fit the nesting, and an embedding of that shape."""
    checked = None
    for name, array in arrays.items():
        if array.dtype is not checked:  # of a dozen arrays, which mostly share one
            check_floating(name, array)
            checked = array.dtype
    if isinstance(head, TiedHead):
        rank, first = "(C, D)", "head.weight"
    else:
        rank, first = "(C, m_g)", "head.weights[0]"
    shape = shape_of(first, arrays[first])
    if len(shape) != 2:
        raise ValueError(f"{first}: expected shape {rank}, got {tuple(shape)}; give a matrix of one row per class")
    classes, columns = shape
    if classes is None or columns is None:
        raise ValueError(f"{first}: expected a known shape {rank}, got {tuple(shape)}; state it in the TensorSpec")
    if classes < 1:
        raise ValueError(f"{first}: expected at least one class, got shape {tuple(shape)}; add rows")
    if isinstance(head, TiedHead):
        width = embedding[-1]
        if columns != width:
            fits = classes == width
            raise ValueError(
                f"head.weight: expected shape (C, D) with D = {width}, the last axis of z, got {tuple(shape)}; "
                + (
                    "transpose it: a kernel of Keras or Flax is (D, C)"
                    if fits
                    else "slice the weight or the embedding to the columns that are meant"
                )
            )
        if head.bias is not None:
            _expect("head.bias", head.bias, (classes,))
        return classes
    for g, dim in enumerate(nesting.dims):
        _expect(f"head.weights[{g}]", head.weights[g], (classes, dim))
        if head.biases is not None:
            _expect(f"head.biases[{g}]", head.biases[g], (classes,))
    return classes


def check_labels(
    labels: Array,
    shape: tuple[int | None, ...],
    classes: int,
    ignore_index: int | None,
    backend: Backend,
    *,
    ignorable: bool = True,
) -> int | None:
    """Labels of ``shape``, integer and, where they can be seen, in range. Returns the usable ``ignore_index``."""
    dtype = dtype_name(labels)
    if dtype not in INTEGERS:
        raise TypeError(f"labels: expected an integer dtype, got {dtype}; give class indices, one per example")
    got = shape_of("labels", labels)
    if len(got) != len(shape) or not compatible(got, shape):
        raise ValueError(
            f"labels: expected shape {tuple(shape)}, the leading shape of z, got {tuple(got)}; "
            "give one class index per example"
        )
    if ignore_index is not None:
        limits = np.iinfo(dtype)
        # No label of this dtype can have that value, and comparing the two wraps around in some frameworks.
        if not limits.min <= ignore_index <= limits.max:
            ignore_index = None
    values = backend.to_numpy(labels, blocking=False)
    if values is not None and values.size and (values.min() < 0 or values.max() >= classes):
        _refuse_labels(values, classes, ignore_index, ignorable)
    return ignore_index


def check_targets(
    labels: Array, shape: tuple[int | None, ...], classes: int, ignore_index: int | None, backend: Backend
) -> int | None:
    """Labels as in :func:`check_labels`, or probabilities ``(*shape, classes)``, of which none can be ignored."""
    got = shape_of("labels", labels)
    if dtype_name(labels) not in FLOATING or len(got) == len(shape):
        return check_labels(labels, shape, classes, ignore_index, backend)
    expected = (*shape, classes)
    if len(got) != len(expected) or not compatible(got, expected):
        raise ValueError(
            f"labels: expected shape {expected}, a probability for every class, because they are {dtype_name(labels)}, "
            f"got {tuple(got)}; give class indices in an integer dtype, or one row of C probabilities per example"
        )
    if ignore_index is not None:
        raise ValueError(
            f"ignore_index: expected None beside labels that are probabilities, got {ignore_index}; "
            "leave rows out with a sample_weight of 0"
        )
    return None


def check_weights(
    name: str,
    weights: Array,
    shape: tuple[int | None, ...],
    backend: Backend,
    *,
    labels: Array | None = None,
    ignore_index: int | None = None,
) -> None:
    """Factors of ``shape``, floating and, where they can be seen, neither negative nor NaN nor infinite.

    Those of ignored ``labels`` may be anything.
    """
    check_floating(name, weights)
    got = shape_of(name, weights)
    if len(got) != len(shape) or not compatible(got, shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(got)}; give one number for each")
    values = backend.to_numpy(weights, blocking=False)
    if values is None:
        return
    with np.errstate(invalid="ignore"):
        bad = ~((values >= 0) & (values < np.inf))
    if not bad.any():
        return
    known = None if labels is None else backend.to_numpy(labels, blocking=False)
    if known is not None:
        bad &= known != ignore_index
    if bad.any() and (labels is None or known is not None):
        position = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: expected finite numbers that are not negative, got {float(values[position])} "
            f"at {_place(position)}; use 0 to leave something out"
        )


def check_sharded(backend: Backend, classes_across: Any, labels: Array, class_weight: Any, fused: bool) -> int:
    """Over how many devices classes are shared out, where a backend can do that, and with what it can do it."""
    size_of = getattr(backend, "classes_size", None)
    if size_of is None:
        raise ValueError(
            f"classes_across: expected None for this framework, got {classes_across!r}; PyTorch alone takes it; in "
            "JAX, shard the head's classes with a NamedSharding under jax.jit, which needs no collective of logits"
        )
    if class_weight is not None or dtype_name(labels) in FLOATING or not fused:
        raise ValueError(
            "classes_across: expected integer labels, no class_weight and fused=True beside it, got "
            + ("a class_weight" if class_weight is not None else "fused=False" if not fused else "probabilities")
            + "; leave classes_across out, or these"
        )
    return int(size_of(classes_across))


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}; choose one")


def check_label_smoothing(label_smoothing: float) -> float:
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float, np.floating, np.integer)):
        raise TypeError(
            f"label_smoothing: expected a number in [0, 1], got {type(label_smoothing).__name__}; write a float"
        )
    if not 0 <= label_smoothing <= 1:  # false for NaN too
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {label_smoothing}; 0.0 turns it off")
    return float(label_smoothing)


def check_integer(name: str, value: Any, *, at_least: int | None = None) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}; write the number")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}; write an int") from None
    if at_least is not None and number < at_least:
        raise ValueError(f"{name}: expected an integer of at least {at_least}, got {number}; raise it")
    return number


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}; write a bool")


def dtype_name(array: Array) -> str:
    """``"float32"`` and the like, the same in every framework."""
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]  # torch.float32, mlx.core.float32
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = dtype.name
    return name


def shape_of(name: str, array: Array) -> tuple[int | None, ...]:
    """The shape as a tuple; an axis that a graph does not know yet is ``None``."""
    shape = array.shape
    if isinstance(shape, tuple):
        return shape
    try:
        return tuple(shape)
    except ValueError:
        raise ValueError(f"{name}: expected a known rank, got an unknown shape; state it in the TensorSpec") from None


def _expect(name: str, array: Array, expected: tuple[int, ...]) -> None:
    shape = shape_of(name, array)
    if None in shape:
        raise ValueError(f"{name}: expected a known shape {expected}, got {tuple(shape)}; state it in the TensorSpec")
    if shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}; match the nesting and the classes")


def compatible(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(shape, expected, strict=True))


def _refuse_labels(values: Any, classes: int, ignore_index: int | None, ignorable: bool) -> None:
    outside = (values < 0) | (values >= classes)
    if ignore_index is not None:
        outside &= values != ignore_index
    if not outside.any():
        return
    position = tuple(int(i) for i in np.argwhere(outside)[0])
    raise ValueError(
        f"labels: expected values in [0, {classes}), got {int(values[position])} at {_place(position)}; "
        "correct the label" + (", or name it as ignore_index" if ignorable else "")
    )


def _place(position: tuple[int, ...]) -> str:
    return f"position {position[0] if len(position) == 1 else position}" if position else "the only position"
