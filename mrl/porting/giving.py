"""Handing fresh arrays to a framework that would copy them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import backend_named
from ..heads import Head, NestedHead, TiedHead
from .convert import convert
from .stored import Array


class _Given:
    """An array that nobody else holds, whose memory becomes the framework's through DLPack.

    NumPy cannot so hand over bfloat16 but as bits, which ``bits_of`` says.
    """

    def __init__(self, array: Array) -> None:
        self.bits_of = "bfloat16" if array.dtype.name == "bfloat16" else None
        self.array = array.view(np.int16) if self.bits_of else array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


def given(array: Array, backend: str, device: Any) -> Any:
    """An array of the backend, of one that nobody else holds and whose memory starts at a multiple of 64 bytes.

    TensorFlow copies twice what it gets as NumPy's own.
    """
    if backend == "tensorflow" and array.size:
        return backend_named(backend).from_numpy(_Given(array), dtype=None, device=device)
    return convert(array, backend, device=device)


def given_away(head: Head, device: Any) -> Head:
    """The head in TensorFlow. What is one array in several places stays one."""
    tensors: dict[int, Array] = {}

    def give(array: Array) -> Array:
        if id(array) not in tensors:
            tensors[id(array)] = given(array, "tensorflow", device) if array.size else array
        return tensors[id(array)]

    if isinstance(head, TiedHead):
        return TiedHead(give(head.weight), None if head.bias is None else give(head.bias))
    biases = None if head.biases is None else tuple(give(bias) for bias in head.biases)
    return NestedHead(tuple(give(weight) for weight in head.weights), biases)
