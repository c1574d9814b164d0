"""One step of the contrastive loss, forward and backward, of each way to train its levels, and its memory.

``python benchmarks/contrastive.py BACKEND [--rows 512 --rows 2048] [--repeats 21]`` prints ratios to the loss at full
width alone; ``--memory ROWS`` the bytes beyond the embeddings and their gradients, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from timing import alternate, summary

import mrl

NESTING = mrl.Nesting((64, 128, 256, 512, 768))
TEMPERATURE = 0.05
ROWS = (512, 2048)
MODES = {"torch": ("eager",), "jax": ("jit",), "tensorflow": ("graph", "xla")}


def pairs(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(rows, NESTING.width)).astype(np.float32)
    return anchors, anchors + rng.normal(size=anchors.shape).astype(np.float32)


def torch_steps(rows: int, mode: str) -> dict[str, Callable[[], Any]]:
    import torch
    import torch.nn.functional as F

    a, p = (torch.tensor(x, requires_grad=True) for x in pairs(rows))
    own = torch.arange(rows)

    def single(m: int = NESTING.width) -> torch.Tensor:
        return F.cross_entropy(F.normalize(a[:, :m], dim=1) @ F.normalize(p[:, :m], dim=1).T / TEMPERATURE, own)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(), (a, p))

    found = {
        "plain": step(single),
        "fused": step(lambda: mrl.nested_contrastive(a, p, NESTING).total),
        "composed": step(lambda: mrl.nested_contrastive(a, p, NESTING, fused=False).total),
        "loop": step(lambda: sum(single(m) for m in NESTING.dims)),
        "fused, symmetric": step(lambda: mrl.nested_contrastive(a, p, NESTING, symmetric=True).total),
    }
    if find_spec("sentence_transformers"):
        from sentence_transformers.losses import MultipleNegativesRankingLoss

        theirs = MultipleNegativesRankingLoss(None, scale=1 / TEMPERATURE)

        def of_prefixes() -> torch.Tensor:
            cut = ([F.normalize(x[:, :m], dim=1) for x in (a, p)] for m in NESTING.dims)
            return sum(theirs.compute_loss_from_embeddings(prefixes, None) for prefixes in cut)

        found["loop of sentence-transformers"] = step(of_prefixes)
    return found


def jax_steps(rows: int, mode: str) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    given = tuple(map(jnp.asarray, pairs(rows)))

    def single(a: Any, p: Any, m: int = NESTING.width) -> Any:
        a, p = (x[:, :m] / jnp.linalg.norm(x[:, :m], axis=1, keepdims=True) for x in (a, p))
        s = a @ p.T / TEMPERATURE
        return (jax.nn.logsumexp(s, 1) - jnp.diagonal(s)).mean()

    def step(loss: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        run = jax.jit(jax.grad(loss, (0, 1)))
        return lambda: run(*given)

    return {
        "plain": step(single),
        "fused": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING).total),
        "composed": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING, fused=False).total),
        "loop": step(lambda a, p: sum(single(a, p, m) for m in NESTING.dims)),
        "fused, symmetric": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING, symmetric=True).total),
    }


def tensorflow_steps(rows: int, mode: str) -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    given, own = tuple(map(tf.constant, pairs(rows))), tf.range(rows)

    def single(a: Any, p: Any, m: int = NESTING.width) -> Any:
        s = tf.matmul(*(tf.math.l2_normalize(x[:, :m], 1) for x in (a, p)), transpose_b=True) / TEMPERATURE
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(own, s))

    def step(loss: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        @tf.function(jit_compile=mode == "xla")
        def run(a: Any, p: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([a, p])
                total = loss(a, p)
            return tape.gradient(total, [a, p])

        return lambda: run(*given)

    return {
        "plain": step(single),
        "fused": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING).total),
        "composed": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING, fused=False).total),
        "loop": step(lambda a, p: sum(single(a, p, m) for m in NESTING.dims)),
        "fused, symmetric": step(lambda a, p: mrl.nested_contrastive(a, p, NESTING, symmetric=True).total),
    }


STEPS = {"torch": torch_steps, "jax": jax_steps, "tensorflow": tensorflow_steps}


def wait(result: Any) -> None:
    for x in result:
        getattr(x, "block_until_ready", lambda: None)()


def memory(backend: str, rows: int, step: str) -> int:
    """Bytes at the peak of one step, beyond the embeddings and their gradients."""

    def peak() -> int:
        # Linux's ru_maxrss starts at what the parent held when it forked.
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    mode = MODES[backend][0]
    wait(STEPS[backend](64, mode)[step]())
    run = STEPS[backend](rows, mode)[step]
    before = peak()
    wait(run())
    return peak() - before - 2 * rows * NESTING.width * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backend", choices=tuple(STEPS))
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--step", default="fused", help="whose memory is taken")
    arguments = parser.parse_args()
    if arguments.memory:
        found = memory(arguments.backend, arguments.memory, arguments.step)
        print(json.dumps({"rows": arguments.memory, "step": arguments.step, "bytes": found}))
        return
    for rows in arguments.rows or ROWS:
        for mode in MODES[arguments.backend]:
            timed = summary(alternate(STEPS[arguments.backend](rows, mode), wait, repeats=arguments.repeats))
            print(f"{arguments.backend} {mode}, {rows} pairs of {NESTING.width} dimensions at {NESTING.dims}")
            for name, step in timed.items():
                print(f"  {name:32}{step['ratio']:6.2f}   {step['median_ms']:9.1f} ms", flush=True)


if __name__ == "__main__":
    main()
