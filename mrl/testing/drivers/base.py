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
        arrays: what is differentiated, in float64 but exact in their dtype.
        constants: what is not: labels, say.
        upstream: the gradient ``sum(upstream * outputs[0])`` starts from; ``None``: nothing is differentiated.
        dtype: of the arrays, where ``dtypes`` does not say so of each.
        device: where they live, in the framework's words; ``None`` for its default.
        key: calls with an equal one may share one traced function.
        known_axes: so many leading axes of the first array, and its last, are known to a graph; the others have any
            size.
        rowless: so many constants, the last, have no axes of rows: a graph knows their shapes.
        dtypes: of each of the arrays.
        frozen: places of arrays that are not differentiated after all; their gradients are ``None``.
        strided: the arrays do not lie in memory in one piece, where the framework has such.
        twice: eagerly, the backward pass is run twice, and the second counts.

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
    rowless: int = 0
    dtypes: tuple[str, ...] = ()
    frozen: tuple[int, ...] = ()
    strided: bool = False
    twice: bool = False

    @property
    def typed(self) -> list[tuple[Float, str]]:
        """The arrays with their dtypes."""
        return list(zip(self.arrays, self.dtypes or [self.dtype] * len(self.arrays), strict=True))

    @property
    def differentiated(self) -> list[int]:
        """The places of the arrays that are differentiated."""
        return [place for place in range(len(self.arrays)) if place not in self.frozen]

    def placed(self, gradients: Iterable[Any]) -> list[Any]:
        """Gradients of what is differentiated, and ``None`` for the rest."""
        found = dict(zip(self.differentiated, gradients, strict=True))
        return [found.get(place) for place in range(len(self.arrays))]

    def made(self, make: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
        """The arrays and the constants, as a backend's ``from_numpy`` makes them."""
        arrays = [make(x, dtype=dtype, device=self.device) for x, dtype in self.typed]
        return arrays, [make(x, dtype=dtype_of(x, self), device=self.device) for x in self.constants]


class Result(NamedTuple):
    """What one run gave: ``gradients`` is ``None`` where the backend has no automatic differentiation.

    So is the gradient of a frozen array. ``gradient_dtypes`` are those of the arrays that are not.
    """

    outputs: list[Float]
    gradients: list[Float | None] | None
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


def apart(x: np.ndarray) -> np.ndarray:
    """The numbers of ``x`` twice each along the last axis: every other one is a view with strides."""
    return np.repeat(x, 2, axis=-1)


def result_of(outputs: Iterable[Any], gradients: Iterable[Any] | None, wide: Callable[[Any], Float]) -> Result:
    """A :class:`Result` of the framework's arrays, of which ``wide`` gives the values in float64."""
    outputs, gradients = list(outputs), None if gradients is None else list(gradients)
    return Result(
        [wide(x) for x in outputs],
        None if gradients is None else [None if x is None else wide(x) for x in gradients],
        [dtype_name(x) for x in outputs],
        [dtype_name(x) for x in gradients or () if x is not None],
    )
