"""The encoder and its training in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import mrl

from ..heads import Head
from ..nesting import Nesting
from .data import Split
from .encoder import Encoder
from .settings import Settings


def embed(encoder: Encoder, images: Array) -> Array:
    x = images
    for i, (weight, bias) in enumerate(zip(encoder.weights, encoder.biases, strict=True)):
        x = jnp.matmul(x, weight.T, precision=jax.lax.Precision.HIGHEST) + bias
        if i + 1 < len(encoder.weights):
            x = jax.nn.relu(x)
    return x


def train(
    encoder: Encoder, head: Head, data: Split, nesting: Nesting, settings: Settings, progress: Callable[[], Any]
) -> tuple[Encoder, Head]:
    """Adam on the nested cross-entropy of encoder and head together."""
    parameters = mrl.convert((encoder, head), "jax")
    labels = data.labels.astype("int32")

    def loss(parameters: Any, images: Array, labels: Array) -> Array:
        encoder, head = parameters
        return mrl.nested_cross_entropy(embed(encoder, images), head, labels, nesting).total

    @jax.jit
    def step(parameters: Any, means: Any, squares: Any, count: Array, images: Array, labels: Array) -> Any:
        gradients = jax.grad(loss)(parameters, images, labels)
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, gradients)
        squares = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, squares, gradients)
        rate, ahead = settings.rate / (1 - 0.9**count), 1 - 0.999**count
        moved = jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s / ahead) + 1e-8), parameters, means, squares)
        return moved, means, squares, count + 1

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = (parameters, zeros, zeros, jnp.float32(1))
    for rows in settings.batches(len(labels)):
        state = step(*state, data.images[rows], labels[rows])
        progress()
    trained: tuple[Encoder, Head] = jax.block_until_ready(state[0])
    return trained
