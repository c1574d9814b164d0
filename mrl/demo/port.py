"""The trained model in the other frameworks: the same logits, within the error that float32 explains."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..losses import nested_logits
from ..porting import available_backends, convert
from .encoder import embed as embed_exactly
from .encoder import logits_with_bound
from .evaluate import Model

ROWS = 500


class Port(NamedTuple):
    """``difference`` and ``bound`` where the first is the largest share of the second, and that ``share``."""

    backend: str
    model: str
    rows: int
    difference: float
    bound: float
    share: float


def check_ports(models: dict[str, Model], images: NDArray[np.float32]) -> list[Port]:
    """Encoder and head in every framework that is installed, held against the float64 specification."""
    images = images[:ROWS]
    ports = []
    for info in available_backends():
        if info.name not in ("numpy", "torch", "jax", "tensorflow"):
            continue
        for name, model in models.items():
            expected, bound = logits_with_bound(model.encoder, model.head, images, model.nesting)
            difference = np.abs(logits_in(info.name, model, images) - expected)
            worst = np.unravel_index(np.argmax(difference / bound), bound.shape)
            at = float(difference[worst]), float(bound[worst])
            ports.append(Port(info.name, name, len(images), *at, at[0] / at[1]))
    return ports


def logits_in(backend: str, model: Model, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logits that a framework computes with the converted encoder and head."""
    encoder, head, x = convert((model.encoder, model.head, images), backend)
    if backend == "numpy":
        z = embed_exactly(encoder, x).astype(np.float32)
    else:
        z = import_module(f".train_{backend}", __package__).embed(encoder, x)
    return np.asarray(convert(nested_logits(z, head, model.nesting), "numpy"), np.float64)
