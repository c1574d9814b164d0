"""Heads and results as arguments and results of what ``jax.export`` writes to a file."""

from __future__ import annotations

from contextlib import suppress

from jax import export

from mrl.cascade.policy import CascadeResult
from mrl.heads import NestedHead, NestedLoss, TiedHead


def register() -> None:
    """Tell JAX by which names a file calls them; who has done so himself is left alone."""
    for kind in (TiedHead, NestedHead, NestedLoss, CascadeResult):
        with suppress(ValueError):  # there already
            export.register_namedtuple_serialization(kind, serialized_name=f"mrl.{kind.__name__}")
