"""How each framework runs a function and takes its gradient: eagerly, and in its traced modes.

A driver is given ``function(arrays, constants) -> outputs``, differentiates ``sum(upstream * outputs[0])`` for
the arrays, and hands everything back as float64 NumPy, with the dtypes that came.
"""

from __future__ import annotations

from collections.abc import Callable

from ...dispatch import BUILTIN, backend_named
from .base import Call, Driver, Function, Result
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
    "TensorFlowDriver",
    "TorchDriver",
    "ValueDriver",
    "driver_of",
]


def driver_of(name: str) -> Driver:
    """The driver of a backend; a plug-in gets one that runs it eagerly and looks at values only."""
    if name in BUILTIN:
        backend_named(name)  # says what to install where the framework is missing
    drivers: dict[str, Callable[[], Driver]] = {"torch": TorchDriver, "jax": JaxDriver, "tensorflow": TensorFlowDriver}
    return drivers[name]() if name in drivers else ValueDriver(name)
