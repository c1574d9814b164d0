"""The loss of an adaptor on a batch, and its gradients as NumPy arrays, by a framework of choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import spec
from ..contrastive import nested_contrastive
from ..dispatch import backend_named
from ..nesting import Nesting
from ..porting.convert import convert

Step = Callable[..., tuple[float, list[NDArray[Any]]]]
"""Of parameters, anchors, positives and what is excluded."""

Embed = Callable[[Sequence[Any], Any], Any]
"""The map, of its parameters and of embeddings, in the framework of both."""


def step_of(backend: str, nesting: Nesting, temperature: float, embed: Embed) -> Step:
    """Computed by a framework, or by the specification in NumPy, which needs no ``embed``: it knows the map."""
    if backend == "numpy":
        return _of_specification(nesting, temperature)
    return _of_framework(backend, nesting, temperature, embed)


def _of_specification(nesting: Nesting, temperature: float) -> Step:
    options: dict[str, Any] = {"temperature": temperature, "symmetric": True}

    def step(
        parameters: Sequence[NDArray[Any]], a: NDArray[Any], p: NDArray[Any], exclude: NDArray[Any]
    ) -> tuple[float, list[NDArray[Any]]]:
        first, first_bias, second, second_bias = parameters
        x = np.concatenate([a, p])
        before = x @ first.T + first_bias
        hidden = np.maximum(before, 0)
        a, p = np.split(x + hidden @ second.T + second_bias, 2)
        loss = spec.nested_contrastive(a, p, nesting, exclude=exclude, **options).total
        found = spec.nested_contrastive_vjp(a, p, nesting, 1.0, exclude=exclude, **options)
        dz = np.concatenate([found.anchors, found.positives]).astype(x.dtype)
        back = (dz @ second) * (before > 0)
        return float(loss), [back.T @ x, back.sum(0), dz.T @ hidden, dz.sum(0)]

    return step


def _of_framework(backend: str, nesting: Nesting, temperature: float, embed: Embed) -> Step:
    def loss(leaves: Sequence[Any], a: Any, p: Any, exclude: Any) -> Any:
        sides = embed(leaves, a), embed(leaves, p)
        return nested_contrastive(*sides, nesting, temperature=temperature, symmetric=True, exclude=exclude).total

    found = backend_named(backend).value_and_gradients(loss)

    def step(parameters: Sequence[NDArray[Any]], *batch: NDArray[Any]) -> tuple[float, list[NDArray[Any]]]:
        value, gradients = convert(found(*convert((list(parameters), *batch), backend)), "numpy")
        return float(value), list(gradients)

    return step
