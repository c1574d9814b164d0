"""How each framework runs a function and takes its gradient: eagerly, and in its traced modes.

A driver is given ``function(arrays, constants) -> outputs``, differentiates ``sum(upstream * outputs[0])`` for
the arrays, and hands everything back as float64 NumPy, with the dtypes that came.
"""

from __future__ import annotations

from collections.abc import Callable

from ...dispatch import backend_named
from .base import Call, Driver, Function, Result, Script, result_of
from .jax import JaxDriver
from .tensorflow import TensorFlowDriver
from .torch import TorchDriver
from .values import ValueDriver

__all__ = [
    "Call",
    "Driver",
    "Function",
    "JaxDriver",
    "Result",
    "Script",
    "TensorFlowDriver",
    "TorchDriver",
    "ValueDriver",
    "driver_of",
    "result_of",
]


def driver_of(name: str) -> Driver:
    """The driver of a backend: of a plug-in, what its ``driver()`` gives, or one that looks at values only."""
    backend = backend_named(name)  # says what to install where the framework is missing
    drivers: dict[str, Callable[[], Driver]] = {"torch": TorchDriver, "jax": JaxDriver, "tensorflow": TensorFlowDriver}
    own = drivers.get(name) or getattr(backend, "driver", None)
    return own() if own else ValueDriver(name)
