"""Exact and adaptive search beside each framework's own, and beside FAISS: ``python retrieval.py BACKEND``.

One process, steps in turns, medians. Prints a table with the floors, in FLOPs and bytes, and JSON as the last line.
``own`` is the framework's full-width search by tiles of a product and its top k, on rows that are normalised already.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from timing import alternate, summary

import mrl
from mrl.porting.giving import given
from mrl.porting.stored import empty_bytes

FUNNEL = (16, 64, 256)
SETS = 8
"""Of queries, more than there are steps: each step takes the next, so that no candidates lie in a cache already."""

OWN_TILE = 16_384
Step = Callable[[int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backend", choices=("numpy", "torch", "jax", "tensorflow"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="names of steps, for sizes at which the others take too long")
    parser.add_argument(
        "--no-faiss", action="store_true", help="its threads and the framework's get in each other's way"
    )
    arguments = parser.parse_args()
    queries, rows = inputs(arguments)
    x = held(rows, arguments.backend)
    steps = faiss_steps(queries, rows, arguments) if not arguments.no_faiss else {}
    steps |= own_steps(arguments.backend, queries, x, arguments)
    turns = itertools.count()

    def taken(step: Step) -> Callable[[], Any]:
        return lambda: step(next(turns) % SETS)

    chosen = {name: taken(step) for name, step in steps.items() if not arguments.only or name in arguments.only}
    reference = "own" if "own" in chosen else next(iter(chosen))
    timed = summary(alternate(chosen, wait, repeats=arguments.repeats, warm_up=1), reference)
    floors = costs(arguments)
    print(f"{arguments.backend}: {vars(arguments)}")
    for name, found in timed.items():
        spread = f"[{found['low_ms']:.1f}, {found['high_ms']:.1f}]"
        floor = floors.get(name, (0, 0))
        print(f"  {name:28}{found['median_ms']:10.1f} ms {spread:20}{found['ratio']:8.3f}  {floor[0]:.3g} FLOPs")
    print(json.dumps({"arguments": vars(arguments), "steps": timed, "floors": floors}))


def inputs(arguments: argparse.Namespace) -> tuple[list[np.ndarray], np.ndarray]:
    """Normalised rows whose first dimensions say most, and queries near some of them."""
    rng = np.random.default_rng(0)
    scale = (1 / np.sqrt(1 + np.arange(arguments.width))).astype(np.float32)
    rows = empty_bytes(4 * arguments.rows * arguments.width).view(np.float32).reshape(-1, arguments.width)
    for start in range(0, len(rows), 10_000):
        part = rng.standard_normal((min(10_000, len(rows) - start), arguments.width), np.float32) * scale
        rows[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    near = rows[rng.integers(0, len(rows), SETS * arguments.queries)]
    noise = rng.standard_normal(near.shape, np.float32) * scale
    queries = near + 0.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return np.split(queries, SETS), rows


def held(rows: np.ndarray, backend: str) -> Any:
    """The rows in the framework, without a copy of them: of a million there is memory for one."""
    if backend == "jax":
        import jax

        return jax.dlpack.from_dlpack(rows)
    return given(rows, backend, None)


def costs(arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """FLOPs, and bytes of rows read, of all queries together: what no implementation can do without."""
    q, n, d, m, s = (getattr(arguments, name) for name in ("queries", "rows", "width", "dim", "shortlist"))
    dims, lengths = stages(arguments)
    funnel = [n * dims[0], *(k * dim for k, dim in zip(lengths, dims[1:], strict=False))]
    exact, short, two = (2.0 * q * n * d, 4.0 * n * d), (2.0 * q * n * m, 4.0 * n * m), s * d
    return {
        "own": exact,
        "exact": exact,
        "shortlist": short,
        "faiss shortlist": short,
        "two stages": (short[0] + 2.0 * q * two, short[1] + 4.0 * q * two),
        "faiss and rerank": (short[0] + 2.0 * q * two, short[1] + 4.0 * q * two),
        "funnel": (2.0 * q * sum(funnel), 4.0 * (funnel[0] + q * sum(funnel[1:]))),
    }


def stages(arguments: argparse.Namespace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the funnel: four where the width is more than 256, and half as long a shortlist each time."""
    narrow = [dim for dim in FUNNEL if dim < arguments.width]
    return (*narrow, arguments.width), (*(arguments.shortlist >> i for i in range(len(narrow))), arguments.k)


def faiss_steps(queries: list[np.ndarray], rows: np.ndarray, arguments: argparse.Namespace) -> dict[str, Step]:
    """FAISS's flat index on the same prefixes, and its shortlist reranked by NumPy."""
    import faiss

    m, s, k = arguments.dim, arguments.shortlist, arguments.k
    index = faiss.IndexFlatIP(m)
    index.add(np.ascontiguousarray(mrl.truncate(rows[:, :m].copy(), m)))
    short = [np.ascontiguousarray(mrl.truncate(some[:, :m].copy(), m)) for some in queries]

    def shortlist(turn: int) -> np.ndarray:
        return index.search(short[turn], s)[1]

    def both(turn: int) -> np.ndarray:
        found = shortlist(turn)
        scores = np.stack([rows[places] @ query for places, query in zip(found, queries[turn], strict=True)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(found, order, 1)

    return {"faiss shortlist": shortlist, "faiss and rerank": both}


def own_steps(backend: str, queries: list[np.ndarray], x: Any, arguments: argparse.Namespace) -> dict[str, Step]:
    m, s, k, d = arguments.dim, arguments.shortlist, arguments.k, arguments.width
    dims, lengths = stages(arguments)
    q = [mrl.convert(some, backend) for some in queries]
    database = mrl.prepare_database(x, sorted({m, *dims[:-1]}))
    run = jitted if backend == "jax" else lambda function: function
    search = run(lambda q, x: mrl.search(q, x, k=k, metric="dot"))
    shortlist = run(lambda q, x: mrl.search(q, x, k=s, dim=m))
    two = run(lambda q, x: mrl.funnel_search(q, x, dims=(m, d), shortlists=(s, k)))
    funnel = run(lambda q, x: mrl.funnel_search(q, x, dims=dims, shortlists=lengths))
    own = OWN[backend](k)
    return {
        "own": lambda turn: own(q[turn], x),
        "exact": lambda turn: search(q[turn], x),
        "shortlist": lambda turn: shortlist(q[turn], database),
        "two stages": lambda turn: two(q[turn], database),
        "funnel": lambda turn: funnel(q[turn], database),
    }


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    return jax.jit(function)


def own_numpy(k: int) -> Callable[..., Any]:
    def search(q: np.ndarray, x: np.ndarray) -> np.ndarray:
        best = None
        for start in range(0, len(x), OWN_TILE):
            scores = q @ x[start : start + OWN_TILE].T
            places = np.argpartition(scores, -k, axis=1)[:, -k:]
            found = np.take_along_axis(scores, places, 1), places + start
            best = found if best is None else tuple(np.concatenate(pair, 1) for pair in zip(best, found, strict=True))
        order = np.argsort(-best[0], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(best[1], order, 1)

    return search


def own_torch(k: int) -> Callable[..., Any]:
    import torch

    def search(q: Any, x: Any) -> Any:
        values, places = [], []
        for start in range(0, len(x), OWN_TILE):
            found = (q @ x[start : start + OWN_TILE].T).topk(k)
            values.append(found.values)
            places.append(found.indices + start)
        order = torch.cat(values, 1).topk(k).indices
        return torch.cat(places, 1).gather(1, order)

    return search


def own_jax(k: int) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    @partial(jax.jit, static_argnames="size")
    def best(q: Any, x: Any, start: int, size: int) -> Any:
        values, places = jax.lax.top_k(q @ jax.lax.dynamic_slice_in_dim(x, start, size).T, k)
        return values, places + start

    def search(q: Any, x: Any) -> Any:
        # Not one graph: with its tiles unrolled it takes memory, and twice the time, for copies of all rows.
        parts = [best(q, x, start, min(OWN_TILE, len(x) - start)) for start in range(0, len(x), OWN_TILE)]
        order = jax.lax.top_k(jnp.concatenate([values for values, _ in parts], 1), k)[1]
        return jnp.take_along_axis(jnp.concatenate([places for _, places in parts], 1), order, 1)

    return search


def own_tensorflow(k: int) -> Callable[..., Any]:
    import tensorflow as tf

    def search(q: Any, x: Any) -> Any:
        values, places = [], []
        for start in range(0, x.shape[0], OWN_TILE):
            found = tf.math.top_k(tf.matmul(q, x[start : start + OWN_TILE], transpose_b=True), k)
            values.append(found.values)
            places.append(found.indices + start)
        order = tf.math.top_k(tf.concat(values, 1), k).indices
        return tf.gather(tf.concat(places, 1), order, batch_dims=1)

    return search


OWN = {"numpy": own_numpy, "torch": own_torch, "jax": own_jax, "tensorflow": own_tensorflow}


def wait(result: Any) -> None:
    """Until the neighbours are there."""
    np.asarray(result.indices if isinstance(result, mrl.SearchResult) else result)


if __name__ == "__main__":
    main()
