"""Of all readings of a mapping the one that is meant, or an error that names those between which nobody can tell."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..checks import shape_of
from ..nesting import Nesting
from .files import memory_of
from .readings import Name, Reading, State, readings, widths


def choose(state: State, nesting: Nesting | None, layout: str | None, prefix: str | None) -> Reading:
    """The one reading of ``state``.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = readings(state)
    if layout is not None:
        found = [reading for reading in found if layout in reading.layouts]
    if prefix is not None:
        wanted = tuple(part for part in re.split(r"[./]", prefix) if part)
        found = [reading for reading in found if reading.prefix == wanted]
    if not found:
        raise ValueError(_none(state, layout, prefix))
    parts = {part for reading in found if len(reading.weights) > 1 for part in reading.inside}
    found = [reading for reading in found if reading.prefix not in parts or not reading.tied]
    # Names that tell a head say which of a model's many matrices is meant, but not against others in the same place.
    places = {reading.prefix for reading in found if reading.telling}
    if places:
        found = [reading for reading in found if reading.telling or reading.prefix in places]
    found = _one_level(state, found, nesting)
    if nesting is not None:
        fitting = [reading for reading in found if _fits(widths(state, reading), reading.tied, nesting)]
        if not fitting:
            seen = "; ".join(f"{_describe(reading)} has {_width(state, reading)}" for reading in found[:4])
            raise ValueError(f"nesting: expected the dims of what is there, got {nesting.dims}, but {seen}")
        found = fitting
    found = _merge(state, found)
    if len(found) > 1:
        raise ValueError(_several(found))
    return found[0]


def _fits(found: tuple[int, ...], tied: bool, nesting: Nesting) -> bool:
    return found[0] >= nesting.width if tied else found == nesting.dims


def _one_level(state: State, found: list[Reading], nesting: Nesting | None) -> list[Reading]:
    """One matrix with a number in its name is untied where the nesting has that one level, and tied otherwise."""
    alone = {reading.weights for reading in found if not reading.tied and len(reading.weights) == 1}
    tied = {reading.weights for reading in found if reading.tied}
    both = alone & tied
    if not both:
        return found
    return [
        reading
        for reading in found
        if reading.weights not in both
        or reading.tied != (nesting is not None and nesting.dims == widths(state, reading))
    ]


def _merge(state: State, found: list[Reading]) -> list[Reading]:
    """One of each kind: arrays that have two names, as a head has that is tied to an embedding, are one head."""
    kinds: dict[Any, Reading] = {}
    for reading in found:
        places = tuple(_place(state[name]) for name in (*reading.weights, *reading.biases))
        kinds.setdefault((places, reading.tied, reading.kernels), reading)
    return list(kinds.values())


def _place(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return memory_of(array)
    if hasattr(array, "data_ptr"):  # of PyTorch, whose tensors are views of memory that others may share
        return array.data_ptr(), tuple(array.shape), array.stride()
    return id(array)


def _describe(reading: Reading) -> str:
    where = f" at prefix {_text(reading.prefix)!r}" if reading.prefix else ""
    return f"layout {reading.layouts[0]!r}{where}"


def _width(state: State, reading: Reading) -> str:
    found = widths(state, reading)
    return f"the width {found[0]}" if reading.tied else f"the dims {found}"


def _text(prefix: Name) -> str:
    return "".join(f"{part}." for part in prefix)


def _several(found: list[Reading]) -> str:
    described = " and ".join(_describe(reading) for reading in found[:6]) + (" and more" if len(found) > 6 else "")
    one_layout = len({reading.layouts for reading in found}) == 1
    return (
        f"{'prefix' if one_layout else 'layout'}: expected one head, got what fits {described}; "
        f"say which with {'prefix' if one_layout else 'layout, and prefix if need be'}"
    )


def _none(state: State, layout: str | None, prefix: str | None) -> str:
    shown = ", ".join(f"{'.'.join(name)} {tuple(shape_of('array', state[name]))}" for name in list(state)[:8])
    wanted = f"of layout {layout!r}" if layout else "of a known layout"
    where = "" if prefix is None else f" at prefix {prefix!r}"
    return (
        f"state: expected the matrices of a head {wanted}{where}, each with all its classes' biases or without, got "
        f"{shown or 'no arrays'}{' ...' if len(state) > 8 else ''}; name layout and prefix as they are there"
    )
