"""JAX arrays to and from NumPy, and the dtype in which they accumulate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mrl.heads import Head, NestedHead, TiedHead, head_leaves


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
    return np.dtype(jnp.float64 if any(x.dtype == jnp.float64 for x in (z, *head_leaves(head))) else jnp.float32)


def widen(z: Array, head: Head) -> tuple[Array, Head]:
    """Both in their accumulation dtype."""
    wide = accumulation_dtype(z, head)
    if isinstance(head, TiedHead):
        bias = None if head.bias is None else head.bias.astype(wide)
        return z.astype(wide), TiedHead(head.weight.astype(wide), bias)
    biases = None if head.biases is None else tuple(bias.astype(wide) for bias in head.biases)
    return z.astype(wide), NestedHead(tuple(weight.astype(wide) for weight in head.weights), biases)


def product(a: Array, b: Array) -> Array:
    """``a @ b`` in full precision: left alone, an accelerator rounds float32 factors to tf32 or bfloat16."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


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
