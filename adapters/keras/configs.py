"""A nesting in the configurations of Keras, which are JSON."""

from __future__ import annotations

from typing import Any

from mrl.nesting import Nesting


def config_of(nesting: Nesting) -> dict[str, Any]:
    """``{"dims": [...], "weights": [...]}``."""
    return {"dims": list(nesting.dims), "weights": list(nesting.weights)}


def nesting_of(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an object, with the :class:`mrl.Nesting` in the place of what :func:`config_of` made."""
    return {**config, "nesting": Nesting(**config["nesting"])}


def check_classes(y_pred: Any, nesting: Nesting) -> int:
    """``C`` of logits ``(..., G, C)``."""
    shape = tuple(y_pred.shape)
    if len(shape) < 2 or shape[-2] != len(nesting) or not shape[-1]:
        raise ValueError(
            f"y_pred: expected shape (batch, ..., G, C) with G = {len(nesting)}, the granularities of the nesting, got "
            f"{shape}; give what MatryoshkaHead gives for this nesting"
        )
    return int(shape[-1])
