"""One step, forward and backward, of each way to train a head in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from cases import Size

import mrl


def steps(size: Size, mode: str, device: str | None = None, dtype: str | None = None) -> dict[str, Callable[[], Any]]:
    """``plain`` is one full-width linear head with cross-entropy; every other step trains the nested loss."""
    nesting = size.nesting
    z, head, labels = mrl.convert(size.inputs(), "jax", device=device)
    z, head = jax.tree.map(lambda x: x.astype(dtype or size.dtype), (z, head))

    def cross_entropy(logits: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def full(head: Any) -> tuple[Any, Any]:
        return tuple(head) if size.tied else (head.weights[-1], head.biases[-1])

    def plain(z: Any, weight: Any, bias: Any) -> Any:
        return cross_entropy(z @ weight.T + bias)

    def loop(z: Any, head: Any) -> Any:
        total = 0.0
        for g, m in enumerate(nesting.dims):
            weight, bias = (head.weight[:, :m], head.bias) if size.tied else (head.weights[g], head.biases[g])
            total += cross_entropy(z[:, :m] @ weight.T + bias)
        return total

    def nested(fused: bool) -> Callable[..., Any]:
        return lambda z, head: mrl.nested_cross_entropy(z, head, labels, nesting, fused=fused).total

    def step(loss: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        run = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))
        return lambda: run(*arguments)

    return {
        "plain": step(plain, z, *full(head)),
        "fused": step(nested(True), z, head),
        "composed": step(nested(False), z, head),
        "loop of optax cross-entropies": step(loop, z, head),
    }


def wait(result: Any) -> None:
    jax.block_until_ready(result)
