"""JAX arrays to and from NumPy, and the dtype in which they accumulate."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from mrl.heads import Head, head_leaves


def from_numpy(array: Any, *, dtype: str | None, device: Any) -> Array:
    if not isinstance(array, (np.ndarray, Array)):
        array = jax.dlpack.from_dlpack(array)
    wanted = np.dtype(jnp.dtype(dtype or array.dtype))
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            f"dtype: expected one that JAX keeps, got {wanted} with x64 off; "
            "cast it to a 32-bit dtype, or run jax.config.update('jax_enable_x64', True)"
        )
    if isinstance(device, str):
        platform, _, index = device.partition(":")
        device = jax.devices(platform)[int(index or 0)]
    return jax.device_put(jnp.asarray(array, wanted), device)


def take_numpy(array: np.ndarray) -> Array:
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind in "iu" and kept != array.dtype:
        # Without 64-bit numbers a label past them would wrap around into the classes: at the end it is out of range.
        array = np.clip(array, np.iinfo(kept).min, np.iinfo(kept).max)
    return jnp.asarray(array)


def uniform(
    key: Array, shapes: tuple[tuple[int, ...], ...], *, bounds: tuple[float, ...], dtype: str, device: Any
) -> tuple[Array, ...]:
    keys = jax.random.split(key, len(shapes))
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    drawn = (
        jax.random.uniform(k, shape, wide, -bound, bound) for k, shape, bound in zip(keys, shapes, bounds, strict=True)
    )
    return tuple(from_numpy(x, dtype=dtype, device=device) for x in drawn)


def to_numpy(array: Array, *, blocking: bool) -> np.ndarray | None:
    traced = isinstance(array, jax.core.Tracer)
    hidden = traced or not array.is_fully_addressable  # parts of it are other processes'
    if not blocking and (hidden or any(device.platform != "cpu" for device in array.devices())):
        return None
    if traced:
        raise TypeError("array: expected an array with values, got a traced one; convert outside of the transform")
    return np.asarray(array)


def on_host(array: Array) -> bool:
    """Whether it lies in a CPU's memory; of a traced one, whether it would by default."""
    if isinstance(array, jax.core.Tracer):
        return jax.default_backend() == "cpu"
    return all(device.platform == "cpu" for device in array.devices())


def devices() -> tuple[str, ...]:
    return tuple(f"{device.platform}:{device.id}" for device in jax.devices())


def accumulation_dtype(z: Array, head: Head) -> np.dtype:
    """float32, or float64 where ``z`` or the head has it."""
    return wide_dtype(z, *head_leaves(head))


def wide_dtype(*arrays: Array) -> np.dtype:
    """float32, or float64 where one of them is."""
    return np.dtype(jnp.float64 if any(x.dtype == jnp.float64 for x in arrays) else jnp.float32)


def product(a: Array, b: Array, wide: np.dtype) -> Array:
    """``a @ b`` in ``wide`` of factors as they are: two of half precision are multiplied as such.

    Factors of different dtypes are promoted. How exact a product of float32 factors is, JAX's own setting says.
    """
    narrow = factor_dtype(a, b, wide)
    return jnp.matmul(a.astype(narrow), b.astype(narrow), preferred_element_type=wide)


def factor_dtype(a: Array, b: Array, wide: np.dtype) -> np.dtype:
    """What JAX promotes two factors to; float64 where the result is."""
    return np.dtype(a.dtype if a.dtype == b.dtype and wide != jnp.float64 else wide)


def lift(x: Array, rank: int) -> Array:
    """``x`` with leading axes of 1, as broadcasting would give it without being told."""
    return jnp.expand_dims(x, tuple(range(rank - x.ndim)))


def power_of_two(x: Array) -> Array:
    """One of about the largest number in ``x``, and 1 where that is zero or no number: exact to divide by."""
    largest = jnp.abs(x).max(initial=0)
    exponent = jnp.where((largest > 0) & (largest < jnp.inf), jnp.frexp(largest)[1], 0)
    return jnp.ldexp(jnp.ones((), x.dtype), jnp.clip(exponent, -126, 126))


def row_shards(z: Array) -> int:
    """Over how many devices the rows of ``z`` may lie: of explicit axes the type says it, of others only the mesh."""
    sharding = jax.typeof(z).sharding
    mesh = jax.sharding.get_abstract_mesh() if sharding.mesh.empty else sharding.mesh
    named = {name for axes in sharding.spec[:-1] for name in (axes if isinstance(axes, tuple) else (axes,))}
    kinds = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    automatic = jax.sharding.AxisType.Auto
    return math.prod(size for name, size, kind in kinds if kind == automatic or name in named)


def explicit_shardings(tree: Any) -> list[NamedSharding] | None:
    """Those of all arrays, on one mesh, where shardings are part of the types; else ``None``.

    The compiler still plans the work between, under ``jax.sharding.auto_axes``; results are placed as arguments are.
    """
    shardings = [jax.typeof(x).sharding for x in jax.tree.leaves(tree)]
    explicit = [sharding.mesh for sharding in shardings if sharding.mesh._any_axis_explicit]
    if not explicit:
        return None
    return [s if s.mesh == explicit[0] else NamedSharding(explicit[0], PartitionSpec()) for s in shardings]


def row_sharding(z: Array, *others: Any) -> NamedSharding | None:
    """Where shardings are part of the types, that of a result for each row of ``z``: as the row itself is placed."""
    placed = explicit_shardings((z, others))
    return None if placed is None else NamedSharding(placed[0].mesh, PartitionSpec(*placed[0].spec[: z.ndim - 1]))


def vary_together(tree: Any) -> Any:
    """The arrays of ``tree``, under ``jax.shard_map`` as if each differed along every axis that one of them does.

    A rule of its own for the gradient must give it the type of its argument; the sum over devices that share an
    argument comes with this.
    """
    axes = frozenset[Any]().union(*map(_varies_along, jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: _vary(x, tuple(axes - _varies_along(x))), tree) if axes else tree


def _varies_along(x: Array) -> frozenset[Any]:
    kind = jax.typeof(x)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # its name until JAX 0.10


def _vary(x: Array, axes: tuple[Any, ...]) -> Array:
    if not axes:
        return x
    return jax.lax.pcast(x, axes, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(x, axes)
