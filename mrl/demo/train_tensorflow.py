"""The encoder and its training in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import mrl

from ..heads import Head
from ..nesting import Nesting
from .data import Split
from .encoder import Encoder
from .settings import Settings


def embed(encoder: Encoder, images: tf.Tensor) -> tf.Tensor:
    x = images
    for i, (weight, bias) in enumerate(zip(encoder.weights, encoder.biases, strict=True)):
        x = tf.matmul(x, weight, transpose_b=True) + bias
        if i + 1 < len(encoder.weights):
            x = tf.nn.relu(x)
    return x


def train(
    encoder: Encoder, head: Head, data: Split, nesting: Nesting, settings: Settings, progress: Callable[[], Any]
) -> tuple[Encoder, Head]:
    """Adam on the nested cross-entropy of encoder and head together."""
    encoder, head = tf.nest.map_structure(tf.Variable, mrl.convert((encoder, head), "tensorflow"))
    images, labels = mrl.convert(tuple(data), "tensorflow")
    variables = tf.nest.flatten((encoder, head))
    optimizer = keras.optimizers.Adam(settings.rate, epsilon=1e-8)
    optimizer.build(variables)
    size = len(next(settings.batches(len(data.labels))))

    @tf.function(input_signature=[tf.TensorSpec([size], tf.int64)])
    def step(rows: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            z = embed(encoder, tf.gather(images, rows))
            loss = mrl.nested_cross_entropy(z, head, tf.gather(labels, rows), nesting).total
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for rows in settings.batches(len(data.labels)):
        step(tf.constant(rows))
        progress()
    trained: tuple[Encoder, Head] = tf.nest.map_structure(tf.convert_to_tensor, (encoder, head))
    return trained
