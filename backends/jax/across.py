"""The rows of all devices, along an axis that is mapped."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array


def place_of(across: Any) -> Array:
    """Of this device along the axis."""
    _check(across)
    return jax.lax.axis_index(across)


def all_rows(arrays: list[Array | None], across: Any) -> list[Array | None]:
    """Of each array the rows of all devices in their order; what comes back for them is added up."""
    _check(across)
    return [None if x is None else jax.lax.all_gather(x, across, tiled=True) for x in arrays]


def summed(x: Array, across: Any) -> Array:
    """The sum of all devices."""
    _check(across)
    return jax.lax.psum(x, across)


def size_of(across: Any) -> Any:
    """The number of devices."""
    _check(across)
    return jax.lax.axis_size(across)


def _check(across: Any) -> None:
    names = across if isinstance(across, tuple) and across else (across,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"across: expected the name of a mapped axis in JAX, or a tuple of names, got {across!r}; "
            "name the axis of jax.shard_map or jax.pmap"
        )
    try:
        jax.lax.axis_size(across)
    except NameError as error:
        raise ValueError(
            f"across: expected an axis that is mapped here, got {across!r}; call the loss inside jax.shard_map or "
            "jax.pmap over that axis; under jit with sharded arrays leave the argument out"
        ) from error
