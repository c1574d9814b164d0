"""What a call is given, brought together: one backend, and arrays that are all its own."""

from __future__ import annotations

from typing import NamedTuple

from . import checks
from .dispatch import settle
from .heads import Array, Head
from .nesting import Nesting
from .protocol import Backend


class Taken(NamedTuple):
    """Embeddings, a head and further arrays of one backend; ``arrays`` are those of the head by name."""

    backend: Backend
    z: Array
    head: Head
    arrays: dict[str, Array]
    others: dict[str, Array | None]


def take(z: Array, head: Head, nesting: Nesting, **others: Array | None) -> Taken:
    """The arguments of a function of embeddings and a head, unwrapped, and NumPy's taken where they may be."""
    names = tuple(checks.head_arrays(head, nesting).items())
    further = {name: array for name, array in others.items() if array is not None}
    backend, given = settle({"z": z, **dict(names), **further})
    arrays = {name: given[name] for name, _ in names}
    return Taken(
        backend, given["z"], checks.head_of(head, nesting, arrays), arrays, {name: given.get(name) for name in others}
    )
