"""Handing fresh arrays to a framework that would copy them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import backend_named
from ..heads import Head, NestedHead, TiedHead
from .stored import Array


class _Given:
    """An array that nobody else holds, whose memory becomes the framework's through DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


def given_away(head: Head, device: Any) -> Head:
    """The head in TensorFlow, which copies twice what it gets as NumPy's own."""
    import tensorflow as tf

    backend = backend_named("tensorflow")
    tensors: dict[int, Array] = {}

    def give(array: Array) -> Array:
        if not array.size:
            return array
        if id(array) not in tensors:
            half = array.dtype.name == "bfloat16"  # which NumPy cannot give away but as bits
            tensor = backend.from_numpy(_Given(array.view(np.int16) if half else array), dtype=None, device=device)
            tensors[id(array)] = tf.bitcast(tensor, tf.bfloat16) if half else tensor
        return tensors[id(array)]

    if isinstance(head, TiedHead):
        return TiedHead(give(head.weight), None if head.bias is None else give(head.bias))
    biases = None if head.biases is None else tuple(give(bias) for bias in head.biases)
    return NestedHead(tuple(give(weight) for weight in head.weights), biases)
