"""The Matryoshka card of a model in training: stated in its configuration, it is in ``config.json`` of every save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl.porting.card import DIMS, FLAG

from .views import unwrapped


def state_dims(model: Any, dims: Sequence[int]) -> None:
    """What :func:`mrl.write_matryoshka_card` writes, into the configuration that transformers writes to files.

    A model without one, or whose hidden size is smaller than a dim (a layer behind it widens), gets none.
    """
    modules = unwrapped(model)
    first = modules[0] if len(modules) else None
    config = getattr(getattr(first, "auto_model", None), "config", None)
    if config is None or max(dims) > getattr(config, "hidden_size", max(dims)):
        return
    setattr(config, FLAG, True)
    setattr(config, DIMS, sorted(set(dims)))
