"""Which granularities a step trains, and what each of them sees of embeddings and of targets."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from torch import Tensor

import mrl

Levels = Sequence[tuple[int, float]]
"""``(dim, weight)`` of the granularities of a step, the largest first."""


def drawn(levels: Levels, count: int, seed: int, stream: str, step: int) -> Levels:
    """All of them, or ``count`` that the seed and the step decide: no process draws others."""
    if not 0 < count < len(levels):
        return levels
    chosen = Random(f"{seed} {stream} {step}").sample(range(len(levels)), count)
    return [levels[g] for g in sorted(chosen)]


def prefix(embedding: Tensor, dim: int) -> Tensor:
    """The first ``dim`` dimensions, normalised."""
    check_width(dim, embedding.shape[-1])
    return mrl.truncate(embedding, dim)


def check_width(dim: int, width: int) -> None:
    if dim > width:
        raise ValueError(
            f"Dimension {dim} in matryoshka_dims cannot be greater than the model's embedding dimension: {width}; "
            "leave it out"
        )


def target(labels: Any, dim: int, width: int | None, normalize: bool) -> Any:
    """Labels as they are, or their prefix where they are embeddings, as wide as the model's."""
    if not isinstance(labels, Tensor) or labels.ndim not in (2, 3) or labels.shape[-1] != width:
        return labels
    return mrl.truncate(labels, dim, normalize=normalize) if labels.is_floating_point() else labels[..., :dim]


def plus(total: Any, weight: float, value: Any) -> Any:
    """``total + weight * value``, name by name where a loss gives its parts by name."""
    if isinstance(value, dict):
        return {name: plus(None if total is None else total[name], weight, part) for name, part in value.items()}
    return weight * value if total is None else total + weight * value
