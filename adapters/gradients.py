"""A loss and its gradients for an optimiser that works in NumPy, computed by a framework of choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mrl
from mrl import spec
from mrl.heads import Head, head_leaves
from mrl.nesting import Nesting

Float = NDArray[np.float64]


def _numpy(
    X: Float, head: Head, labels: NDArray[Any], nesting: Nesting, options: Mapping[str, Any]
) -> tuple[float, Sequence[Any]]:
    loss = spec.nested_cross_entropy(X, head, labels, nesting, **options).total
    _, gradients = spec.nested_cross_entropy_vjp(X, head, labels, nesting, 1.0, **options)
    return float(loss), head_leaves(gradients)


def _torch(
    X: Float, head: Head, labels: NDArray[Any], nesting: Nesting, options: Mapping[str, Any]
) -> tuple[float, Sequence[Any]]:
    import torch

    X, head, labels, options = mrl.convert((X, head, labels, options), "torch")
    leaves = [leaf.requires_grad_() for leaf in head_leaves(head)]
    loss = mrl.nested_cross_entropy(X, head, labels, nesting, **options).total
    return loss.item(), [gradient.numpy() for gradient in torch.autograd.grad(loss, leaves)]


def _jax(
    X: Float, head: Head, labels: NDArray[Any], nesting: Nesting, options: Mapping[str, Any]
) -> tuple[float, Sequence[Any]]:
    import jax

    def loss(head: Head) -> Any:
        return mrl.nested_cross_entropy(X, head, labels, nesting, **options).total

    value, gradients = jax.value_and_grad(loss)(mrl.convert(head, "jax"))
    return float(value), head_leaves(gradients)


def _tensorflow(
    X: Float, head: Head, labels: NDArray[Any], nesting: Nesting, options: Mapping[str, Any]
) -> tuple[float, Sequence[Any]]:
    import tensorflow as tf

    head = mrl.convert(head, "tensorflow")
    with tf.GradientTape() as tape:
        tape.watch(head_leaves(head))
        loss = mrl.nested_cross_entropy(X, head, labels, nesting, **options).total
    return float(loss), tape.gradient(loss, head_leaves(head))


GRADIENTS: Mapping[str, Callable[..., tuple[float, Sequence[Any]]]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
}
