"""What a driver is: one framework's way of running a function and taking its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...checks import dtype_name
from ..problems import Float

Function = Callable[[list[Any], list[Any]], Sequence[Any]]
"""``function(arrays, constants) -> outputs``: the first output is what is differentiated, for the arrays."""


class Call(NamedTuple):
    """What a driver is asked to run.

    Attributes:
        function: called with lists of the framework's arrays.
        arrays: what is differentiated, in float64 but exact in ``dtype``.
        constants: what is not: labels, say.
        upstream: the gradient ``sum(upstream * outputs[0])`` starts from; ``None``: nothing is differentiated.
        dtype: of the arrays.
        device: where they live, in the framework's words; ``None`` for its default.
        key: calls with an equal one may share one traced function.
        known_axes: so many leading axes of the first array, and its last, are known to a graph; the others have any
            size.

    Example:
        >>> import mrl.testing
        >>> mrl.testing.drivers.Call(list, [], [], None, "float32").known_axes
        0
    """

    function: Function
    arrays: list[Float]
    constants: list[np.ndarray]
    upstream: Float | None
    dtype: str
    device: Any = None
    key: Any = None
    known_axes: int = 0


class Result(NamedTuple):
    """What one run gave: ``gradients`` is ``None`` where the backend has no automatic differentiation."""

    outputs: list[Float]
    gradients: list[Float] | None
    output_dtypes: list[str]
    gradient_dtypes: list[str]


class Driver(Protocol):
    """One framework's way of running a function.

    Attributes:
        name: of the backend.
        modes: ways of running, ``"eager"`` first.
        dtypes: of the arrays that it can make.
    """

    @property
    def name(self) -> str: ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def dtypes(self) -> tuple[str, ...]: ...

    def run(self, mode: str, call: Call) -> Result:
        """Run ``call.function`` in ``mode``, and differentiate it."""


def result_of(outputs: Iterable[Any], gradients: Iterable[Any] | None, wide: Callable[[Any], Float]) -> Result:
    """A :class:`Result` of the framework's arrays, of which ``wide`` gives the values in float64."""
    outputs, gradients = list(outputs), None if gradients is None else list(gradients)
    return Result(
        [wide(x) for x in outputs],
        None if gradients is None else [wide(x) for x in gradients],
        [dtype_name(x) for x in outputs],
        [dtype_name(x) for x in gradients or ()],
    )
