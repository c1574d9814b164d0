"""JAX: how it runs a function and takes its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dispatch import backend_named
from .base import Call, Result, Script, dtype_of, result_of


def _array(numbers: str, dtype: str, device: Any) -> str:
    made = f"jnp.asarray({numbers}, jnp.{'int32' if dtype == 'int64' else dtype})"
    return made if device is None else f"jax.device_put({made}, jax.devices({str(device)!r})[0])"


def _gradients(call: str, names: Sequence[str], upstream: str | None) -> list[str]:
    inputs = ", ".join(names)
    given = "jnp.ones_like(total)" if upstream is None else f"{upstream}.astype(total.dtype)"
    return [
        f"total, back = jax.vjp(lambda {inputs}: {call.format(inputs)}, {inputs})",
        f"{', '.join(f'd{name}' for name in names)}, = back({given})",
    ]


class JaxDriver:
    """JAX: ``eager`` and ``jit``; float64 needs x64."""

    name = "jax"
    modes = ("eager", "jit")
    gradients = True
    script = Script(("import jax", "import jax.numpy as jnp"), _array, _gradients, "{}")

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

        def array(x: np.ndarray, dtype: str | None) -> Any:
            x = _narrow(x) if dtype is None else np.asarray(jnp.asarray(x, dtype))
            return make(x, dtype=dtype, device=call.device)

        inputs = [array(x, dtype) for x, dtype in call.typed]
        constants = [array(x, dtype_of(x, call)) for x in call.constants]

        def objective(wanted: Any, inputs: Any, constants: Any, upstream: Any) -> Any:
            placed = [x if new is None else new for x, new in zip(inputs, call.placed(wanted), strict=True)]
            outputs = tuple(function(placed, constants))
            return jnp.sum(outputs[0] * upstream.astype(outputs[0].dtype)), outputs

        def value(wanted: Any, inputs: Any, constants: Any, upstream: Any) -> Any:
            return (None, tuple(function(inputs, constants))), None

        def twice(wanted: Any, inputs: Any, constants: Any, upstream: Any) -> Any:
            scalar, back, outputs = jax.vjp(lambda x: objective(x, inputs, constants, upstream), wanted, has_aux=True)
            back(jnp.ones_like(scalar))
            return (scalar, outputs), back(jnp.ones_like(scalar))[0]

        run = value if call.upstream is None else jax.value_and_grad(objective, has_aux=True)
        if call.twice and mode == "eager" and call.upstream is not None:
            run = twice
        if mode == "jit":
            run = self._jitted.setdefault((call.key, call.dtype), jax.jit(run))
        upstream = None if call.upstream is None else jnp.asarray(call.upstream, call.dtype)
        with jax.default_matmul_precision("highest"):
            (_, outputs), found = run([inputs[place] for place in call.differentiated], inputs, constants, upstream)
        gradients = None if found is None else call.placed(found)
        return result_of(outputs, gradients, lambda x: np.asarray(x).astype(np.float64))


def _narrow(x: np.ndarray) -> np.ndarray:
    """As JAX keeps it without 64-bit numbers: labels are proved as most people have them."""
    return x.astype(np.int32) if x.dtype == np.int64 else x
