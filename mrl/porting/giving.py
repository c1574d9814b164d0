"""Handing fresh arrays to a framework that would copy them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import backend_named
from ..heads import Head, NestedHead, TiedHead
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


def given_away(head: Head, device: Any) -> Head:
    """The head in TensorFlow, which copies twice what it gets as NumPy's own."""
    tensors: dict[int, Array] = {}

    def give(array: Array) -> Array:
        if not array.size:
            return array
        if id(array) not in tensors:
            tensors[id(array)] = backend_named("tensorflow").from_numpy(_Given(array), dtype=None, device=device)
        return tensors[id(array)]

    if isinstance(head, TiedHead):
        return TiedHead(give(head.weight), None if head.bias is None else give(head.bias))
    biases = None if head.biases is None else tuple(give(bias) for bias in head.biases)
    return NestedHead(tuple(give(weight) for weight in head.weights), biases)
