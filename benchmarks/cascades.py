"""Adaptive prediction beside full-width prediction: one product and an argmax for all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import mrl

MODES = {
    "numpy": ("eager",),
    "torch": ("eager",),
    "jax": ("jit",),
    "tensorflow": ("eager", "tf.function", "tf.function + XLA"),
}


@dataclass(frozen=True)
class Cascade:
    """``rows`` examples, a tied head, and how many dimensions an example shall need on average.

    ``exits`` are the shares of examples that the first levels answer; without, every level lets go of the same share.
    """

    rows: int
    classes: int
    width: int
    dim: float
    smallest: int = 8
    exits: tuple[float, ...] = ()

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, mrl.TiedHead, mrl.CascadePolicy]:
        """Embeddings, a head and a policy that answers as many rows at each level as it shall."""
        rng = np.random.default_rng(seed)
        nesting = mrl.Nesting.doubling(self.smallest, self.width)
        z = rng.normal(size=(self.rows, self.width)).astype(np.float32)
        head = mrl.init_head(nesting, self.classes, tied=True, backend="numpy", seed=seed)
        shares = leaving_shares(self.exits) or (leaving_share(nesting.dims, self.dim),)
        sample, thresholds = z[:8192], []
        for g, m in enumerate(nesting.dims[:-1]):
            logits = sample[:, :m] @ head.weight[:, :m].T + head.bias
            confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
            thresholds.append(float(np.quantile(confidence, 1 - shares[min(g, len(shares) - 1)])))
            sample = sample[confidence <= thresholds[-1]]
        return z, head, mrl.CascadePolicy(thresholds, nesting.dims)


CASCADE = Cascade(16_384, 1000, 2048, dim=37)
PAPER_CASCADE = Cascade(16_384, 1000, 2048, dim=37, exits=(0.08, 0.2, 0.52, 0.14, 0.05))
"""The paper's own shape: 37 dimensions on average where an example is accepted, 2.9 levels, 66 dimensions added up."""

QUICK_CASCADE = Cascade(1024, 100, 256, dim=20)


def leaving_shares(exits: tuple[float, ...]) -> tuple[float, ...]:
    """Of the rows that reach each level, the share that it answers."""
    return tuple(share / (1 - sum(exits[:g])) for g, share in enumerate(exits))


def leaving_share(dims: tuple[int, ...], dim: float) -> float:
    """The share that must leave every level for ``dim`` dimensions on average, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        staying = [(1 - share) ** g for g in range(len(dims))]
        expected = sum(m * s * share for m, s in zip(dims[:-1], staying, strict=False)) + dims[-1] * staying[-1]
        low, high = (share, high) if expected > dim else (low, share)
    return low


def floors(policy: mrl.CascadePolicy, level: np.ndarray, classes: int) -> dict[str, float]:
    """What the policy needs an example: dimensions, and how much less arithmetic and how many more logits that is."""
    dims = np.asarray(policy.dims)
    needed = float(dims[level].mean())
    visited = float((level + 1).mean())
    return {
        "expected_dim": needed,
        "flops": 2 * classes * needed,
        "flops_ratio": float(dims[-1]) / needed,
        "logit_bytes": 4 * classes * visited,
        "logit_bytes_ratio": 1 / visited,
    }


def steps(backend: str, mode: str, case: Cascade) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """``full`` is the reference, ``cascade`` the same rows through the policy; and the floors."""
    z, head, policy = case.inputs()
    found = floors(policy, np.asarray(mrl.cascade_predict(z, head, policy).level), case.classes)
    z, head = mrl.convert((z, head), backend)
    if backend == "numpy":
        return {
            "full": lambda: (z @ head.weight.T + head.bias).argmax(-1),
            "cascade": lambda: mrl.cascade_predict(z, head, policy),
        }, found
    if backend == "torch":
        import torch

        return {
            "full": lambda: torch.nn.functional.linear(z, *head).argmax(-1),
            "cascade": lambda: mrl.cascade_predict(z, head, policy),
        }, found
    if backend == "jax":
        import jax

        full = jax.jit(lambda z, head: (z @ head.weight.T + head.bias).argmax(-1))
        walk = jax.jit(lambda z, head: mrl.cascade_predict(z, head, policy))
    else:
        import tensorflow as tf

        def full(z: Any, head: Any) -> Any:
            return tf.argmax(tf.matmul(z, head.weight, transpose_b=True) + head.bias, -1)

        def walk(z: Any, head: Any) -> Any:
            return mrl.cascade_predict(z, head, policy)

        if mode != "eager":
            full, walk = (tf.function(f, jit_compile=mode.endswith("XLA")) for f in (full, walk))
    return {"full": lambda: full(z, head), "cascade": lambda: walk(z, head)}, found


def wait(result: Any) -> None:
    """Until the labels are there."""
    np.asarray(result[0] if isinstance(result, tuple) else result)
