"""Backends without automatic differentiation: NumPy, and plug-ins."""

from __future__ import annotations

import numpy as np

from ...dispatch import backend_named, backend_of
from .base import Call, Result, result_of


class ValueDriver:
    """Runs eagerly and takes no gradient: NumPy, and plug-ins."""

    modes = ("eager",)
    dtypes = ("float16", "float32", "float64")

    def __init__(self, name: str) -> None:
        self.name = name
        self._backend = backend_named(name)

    def run(self, mode: str, call: Call) -> Result:
        make = self._backend.from_numpy
        outputs = call.function(
            [make(x, dtype=call.dtype, device=call.device) for x in call.arrays],
            [make(x, dtype=None, device=call.device) for x in call.constants],
        )
        return result_of(
            outputs, None, lambda x: np.asarray(backend_of({"output": x}).to_numpy(x, blocking=True), np.float64)
        )
