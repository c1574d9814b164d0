"""The gradients of a function of the caller's, for an optimiser that is none of JAX's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array


def value_and_gradients(function: Callable[..., Array]) -> Callable[..., tuple[Array, list[Array]]]:
    compiled = jax.jit(jax.value_and_grad(function))

    def run(leaves: Sequence[Array], *fixed: Any) -> tuple[Array, list[Array]]:
        value, gradients = compiled(list(leaves), *fixed)
        return value, gradients

    return run
