"""JAX: how it runs a function and takes its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...dispatch import backend_named
from .base import Call, Result, result_of


class JaxDriver:
    """JAX: ``eager`` and ``jit``; float64 needs x64."""

    name = "jax"
    modes = ("eager", "jit")

    def __init__(self) -> None:
        self._jitted: dict[Any, Any] = {}

    @property
    def dtypes(self) -> tuple[str, ...]:
        import jax

        wide = ("float64",) if jax.config.jax_enable_x64 else ()
        return ("float16", "bfloat16", "float32", *wide)

    def run(self, mode: str, call: Call) -> Result:
        import jax
        import jax.numpy as jnp

        make, function = backend_named("jax").from_numpy, call.function
        inputs = [
            make(np.asarray(jnp.asarray(x, call.dtype)), dtype=call.dtype, device=call.device) for x in call.arrays
        ]
        constants = [_narrow(x) for x in call.constants]
        constants = [make(x, dtype=None, device=call.device) for x in constants]

        def objective(inputs: Any, constants: Any, upstream: Any) -> Any:
            outputs = tuple(function(inputs, constants))
            return jnp.sum(outputs[0] * upstream.astype(outputs[0].dtype)), outputs

        def value(inputs: Any, constants: Any, upstream: Any) -> Any:
            return (None, tuple(function(inputs, constants))), None

        run = value if call.upstream is None else jax.value_and_grad(objective, has_aux=True)
        if mode == "jit":
            run = self._jitted.setdefault((call.key, call.dtype), jax.jit(run))
        upstream = None if call.upstream is None else jnp.asarray(call.upstream, call.dtype)
        with jax.default_matmul_precision("highest"):
            (_, outputs), gradients = run(inputs, constants, upstream)
        return result_of(outputs, gradients, lambda x: np.asarray(x).astype(np.float64))


def _narrow(x: np.ndarray) -> np.ndarray:
    """As JAX keeps it without 64-bit numbers: labels are proved as most people have them."""
    return x.astype(np.int32) if x.dtype == np.int64 else x
