"""One step, forward and backward, of each way to train a head in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from cases import Size

import mrl


def steps(size: Size, mode: str, device: str | None = None, dtype: str | None = None) -> dict[str, Callable[[], Any]]:
    """``plain`` is one full-width linear head with cross-entropy; every other step trains the nested loss."""
    nesting = size.nesting
    z, head, labels = mrl.convert(size.inputs(), "tensorflow", device=device)
    leaves = [tf.cast(x, dtype or size.dtype) for x in tf.nest.flatten(head)]
    z, head = tf.cast(z, dtype or size.dtype), tf.nest.pack_sequence_as(head, leaves)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def cross_entropy(logits: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def full(head: Any) -> tuple[Any, Any]:
        return tuple(head) if size.tied else (head.weights[-1], head.biases[-1])

    def logits(z: Any, weight: Any, bias: Any) -> Any:
        return tf.matmul(z, weight, transpose_b=True) + bias

    def loop(one: Callable[[Any], Any]) -> Callable[..., Any]:
        def loss(z: Any, head: Any) -> Any:
            total = 0.0
            for g, m in enumerate(nesting.dims):
                weight, bias = (head.weight[:, :m], head.bias) if size.tied else (head.weights[g], head.biases[g])
                total += one(logits(z[:, :m], weight, bias))
            return total

        return loss

    def nested(fused: bool) -> Callable[..., Any]:
        return lambda z, head: mrl.nested_cross_entropy(z, head, labels, nesting, fused=fused).total

    def step(loss: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        @tf.function(jit_compile=mode.endswith("XLA"))
        def run(*arguments: Any) -> Any:
            flat = tf.nest.flatten(arguments)
            with tf.GradientTape() as tape:
                tape.watch(flat)
                value = loss(*arguments)
            return tape.gradient(value, flat)

        return lambda: run(*arguments)

    return {
        "plain": step(lambda z, weight, bias: cross_entropy(logits(z, weight, bias)), z, *full(head)),
        "fused": step(nested(True), z, head),
        "composed": step(nested(False), z, head),
        "loop of tf.nn cross-entropies": step(loop(cross_entropy), z, head),
        "loop of Keras cross-entropies": step(loop(lambda x: keras_loss(labels, x)), z, head),
    }


def wait(result: Any) -> None:
    result[0].numpy()
