"""How good each granularity is: with its linear head, and as a key for nearest neighbours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import spec
from ..heads import Head
from ..losses import truncate
from ..nesting import Nesting
from .data import Dataset
from .encoder import Encoder, embed

Correct = NDArray[np.bool_]


class Model(NamedTuple):
    """One trained encoder with its head, as NumPy arrays."""

    encoder: Encoder
    head: Head
    nesting: Nesting


class Evaluation(NamedTuple):
    """Which test images were right, ``(G, N)`` each; logits ``(G, N, C)``, held out and of the test; embeddings."""

    linear: Correct
    neighbour: Correct
    held_out_logits: NDArray[np.float64]
    test_logits: NDArray[np.float64]
    keys: NDArray[np.float32]  # of what was trained on
    queries: NDArray[np.float32]  # of the test


def evaluate(model: Model, data: Dataset) -> Evaluation:
    """In NumPy, whatever the framework that trained: the same arithmetic judges all of them."""
    keys, queries = embed(model.encoder, data.train.images), embed(model.encoder, data.test.images)
    test = spec.nested_logits(queries, model.head, model.nesting)
    held_out = spec.nested_logits(embed(model.encoder, data.held_out.images), model.head, model.nesting)
    neighbours = [
        data.train.labels[nearest(truncate(queries, m), truncate(keys, m))] == data.test.labels
        for m in model.nesting.dims
    ]
    right = test.argmax(-1) == data.test.labels
    embeddings = keys.astype(np.float32), queries.astype(np.float32)
    return Evaluation(right, np.stack(neighbours), held_out, test, *embeddings)


def nearest(queries: NDArray[Any], keys: NDArray[Any], chunk: int = 1000) -> NDArray[np.int64]:
    """The key with the largest inner product for each query, the first of equals."""
    queries, keys = queries.astype(np.float32), keys.astype(np.float32)
    parts = [(queries[i : i + chunk] @ keys.T).argmax(-1) for i in range(0, len(queries), chunk)]
    return np.concatenate(parts)
