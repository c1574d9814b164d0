"""The gradients of a function of the caller's, for an optimiser that is none of TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def value_and_gradients(function: Callable[..., tf.Tensor]) -> Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]:
    @tf.function
    def compiled(leaves: list[tf.Tensor], *fixed: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            value = function(leaves, *fixed)
        return value, tape.gradient(value, leaves)

    def run(leaves: Sequence[tf.Tensor], *fixed: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        value, gradients = compiled(list(leaves), *fixed)
        return value, gradients

    return run
