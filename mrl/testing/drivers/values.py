"""Backends without automatic differentiation: NumPy, and plug-ins without a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...checks import FLOATING, dtype_name
from ...dispatch import backend_named, backend_of
from .base import Call, Result, Script, apart, dtype_of, result_of


def values_script(name: str) -> Script:
    """How a counter-example is written for any array type that ``mrl.convert`` can make."""

    def array(numbers: str, dtype: str, device: Any) -> str:
        if name == "numpy":
            return f"np.array({numbers}, np.{dtype})"
        return f"backend.from_numpy(np.array({numbers}), dtype={dtype!r}, device={device!r})"

    def gradients(call: str, names: Sequence[str], upstream: str | None) -> list[str]:
        return [f"total = {call.format(', '.join(names))}"]

    if name == "numpy":
        return Script((), array, gradients, "{}")
    found = f"backend = mrl.dispatch.backend_named({name!r})"
    return Script(("import mrl.dispatch",), array, gradients, "backend.to_numpy({}, blocking=True)", found)


class ValueDriver:
    """Runs eagerly and takes no gradient: NumPy, and plug-ins without a driver of their own."""

    modes = ("eager",)
    gradients = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._backend = backend_named(name)
        # NumPy has bfloat16 or not by what else was imported.
        self.dtypes = tuple(dtype for dtype in FLOATING if self._has(dtype) and (name, dtype) != ("numpy", "bfloat16"))
        self.script = values_script(name)

    def run(self, mode: str, call: Call) -> Result:
        make = self._backend.from_numpy

        def given(x: np.ndarray, dtype: str) -> Any:
            if call.strided and x.ndim and self.name == "numpy":
                return apart(x).astype(dtype)[..., ::2]
            return make(x, dtype=dtype, device=call.device)

        outputs = call.function(
            [given(x, dtype) for x, dtype in call.typed],
            [make(x, dtype=dtype_of(x, call), device=call.device) for x in call.constants],
        )
        return result_of(
            outputs, None, lambda x: np.asarray(backend_of({"output": x}).to_numpy(x, blocking=True), np.float64)
        )

    def _has(self, dtype: str) -> bool:
        """Whether the array type has a dtype: it is asked to make such an array."""
        try:
            return dtype_name(self._backend.from_numpy(np.zeros(1), dtype=dtype, device=None)) == dtype
        except Exception:  # each array type has its own kind
            return False
