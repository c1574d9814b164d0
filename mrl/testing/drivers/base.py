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

    def made(self, make: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
        """The arrays and the constants, as a backend's ``from_numpy`` makes them."""
        arrays = [make(x, dtype=self.dtype, device=self.device) for x in self.arrays]
        return arrays, [make(x, dtype=dtype_of(x, self), device=self.device) for x in self.constants]


class Result(NamedTuple):
    """What one run gave: ``gradients`` is ``None`` where the backend has no automatic differentiation."""

    outputs: list[Float]
    gradients: list[Float] | None
    output_dtypes: list[str]
    gradient_dtypes: list[str]


class Script(NamedTuple):
    """How a counter-example is written in a framework's own words.

    Attributes:
        imports: statements, beside those of mrl and NumPy.
        array: the source of an array, from that of its numbers, its dtype and a device.
        gradients: statements that set ``total`` and the gradient ``dx`` of every name ``x``, from the source of a call
            with a place for the names, the names, and the source of the upstream gradient, ``None`` for 1.
        to_numpy: the source of an array's values, with a place for its name.
        first: a statement that comes before the arrays.
    """

    imports: tuple[str, ...]
    array: Callable[[str, str, Any], str]
    gradients: Callable[[str, Sequence[str], str | None], list[str]]
    to_numpy: str
    first: str = ""


class Driver(Protocol):
    """One framework's way of running a function.

    A plug-in's ``driver()`` gives one. It may have a ``script`` too, a :class:`Script` that counter-examples are
    written with.

    Attributes:
        name: of the backend.
        modes: ways of running, ``"eager"`` first.
        dtypes: of the arrays that it can make.
        gradients: whether it differentiates.
    """

    @property
    def name(self) -> str: ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def dtypes(self) -> tuple[str, ...]: ...

    @property
    def gradients(self) -> bool: ...

    def run(self, mode: str, call: Call) -> Result:
        """Run ``call.function`` in ``mode``, and differentiate it."""


def dtype_of(constant: np.ndarray, call: Call) -> str | None:
    """The dtype in which a constant is handed over: that of the arrays for numbers, its own for integers."""
    return call.dtype if np.issubdtype(constant.dtype, np.floating) else None


def result_of(outputs: Iterable[Any], gradients: Iterable[Any] | None, wide: Callable[[Any], Float]) -> Result:
    """A :class:`Result` of the framework's arrays, of which ``wide`` gives the values in float64."""
    outputs, gradients = list(outputs), None if gradients is None else list(gradients)
    return Result(
        [wide(x) for x in outputs],
        None if gradients is None else [wide(x) for x in gradients],
        [dtype_name(x) for x in outputs],
        [dtype_name(x) for x in gradients or ()],
    )
