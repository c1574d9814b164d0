"""What arrays of a mapping may be a head, told from their names and shapes alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from ..checks import FLOATING, dtype_name, shape_of

Name: TypeAlias = tuple[str, ...]
"""A name in its parts: ``("model", "fc", "weight")``."""

State: TypeAlias = Mapping[Name, Any]

NUMBERED = re.compile(r"(?:(.+)_)?(\d{1,6})")
RAIVNLAB = "nesting_classifier"
ROWS, COLUMNS = ("linear", "raivnlab", "mrl"), ("dense", "flax")
"""Layouts whose matrices have a row, or a column, for every class."""


class Reading(NamedTuple):
    """One way to take arrays of a mapping for a head.

    Attributes:
        layouts: those that would write it so.
        prefix: what stands before the layout's own names.
        tied: one matrix for all granularities.
        weights: the names of the matrices, from narrow to wide.
        biases: as many names, or none.
        kernels: the matrices are ``(D, C)``.
        telling: the names alone say that it is a head.
        inside: the prefixes of what it is made of, which are no heads by themselves.
    """

    layouts: tuple[str, ...]
    prefix: Name
    tied: bool
    weights: tuple[Name, ...]
    biases: tuple[Name, ...]
    kernels: bool
    telling: bool = False
    inside: tuple[Name, ...] = ()


def readings(state: State) -> list[Reading]:
    """Every way to take arrays of ``state`` for a head in which the shapes agree."""
    return [reading for reading in (*_single(state), *_groups(state), *_lists(state)) if agrees(state, reading)]


def widths(state: State, reading: Reading) -> tuple[int, ...]:
    """``m_g`` of every matrix."""
    return tuple(_shape(state[name])[0 if reading.kernels else 1] for name in reading.weights)


def classes(state: State, reading: Reading) -> int:
    """``C``."""
    return _shape(state[reading.weights[0]])[1 if reading.kernels else 0]


def agrees(state: State, reading: Reading) -> bool:
    """Whether they are floating matrices of one number of classes, ever wider, and all or none have a bias of it."""
    names = (*reading.weights, *reading.biases)
    if not reading.weights or not all(dtype_name(state[name]) in FLOATING for name in names):
        return False
    if any(len(_shape(state[name])) != 2 for name in reading.weights):
        return False
    count, found = classes(state, reading), widths(state, reading)
    return (
        min(count, *found) > 0
        and all(a < b for a, b in pairwise(found))
        and all(_shape(state[name])[1 if reading.kernels else 0] == count for name in reading.weights)
        and len(reading.biases) in (0, len(reading.weights))
        and all(_shape(state[name]) == (count,) for name in reading.biases)
    )


def _single(state: State) -> Iterator[Reading]:
    """One matrix, with or without a bias beside it."""
    for name in state:
        scope, bias = name[:-1], (*name[:-1], "bias")
        biases = (bias,) if bias in state else ()
        if name[-1] == "weight" and _numbered(scope)[1] != RAIVNLAB:
            yield Reading(ROWS, scope, True, (name,), biases, False)
        elif name[-1] == "kernel":
            yield Reading(COLUMNS, scope, True, (name,), biases, True)
        elif name[-2:] == ("vars", "0"):
            matrices, vectors = _variables(state, name[:-2])
            yield Reading(("dense",), name[:-2], len(matrices) == 1, matrices, vectors, True)
        elif name == ("arr_0",) and set(state) <= {name, ("arr_1",)}:
            # Arrays in a row have no names: get_weights() of Keras, or a state dict's values.
            beside = tuple(other for other in state if other != name)
            yield Reading(("linear",), (), True, (name,), beside, False)
            yield Reading(("dense",), (), True, (name,), beside, True)


def _groups(state: State) -> Iterator[Reading]:
    """Numbered layers side by side, each with a matrix."""
    found: dict[tuple[Name, str, str], dict[int, tuple[Name, Name | None]]] = defaultdict(dict)
    odd, unnumbered = set(), set()
    for name in state:
        if name[-1] in ("weight", "kernel"):
            scope, leaf, beside = name[:-1], name[-1], (*name[:-1], "bias")
            bias = beside if beside in state else None
        elif name[-2:] == ("vars", "0"):
            scope, leaf = name[:-2], "vars"
            matrices, vectors = _variables(state, scope)
            if len(matrices) != 1 or len(vectors) > 1:
                continue
            name, bias = matrices[0], vectors[0] if vectors else None
        else:
            continue
        parent, stem, number = _numbered(scope)
        if stem is None:
            continue
        bare = NUMBERED.fullmatch(scope[-1]) is None
        key = parent, stem, leaf
        if number in found[key]:
            odd.add(key)
        found[key][number] = name, bias
        if bare:
            unnumbered.add(key)
    for (parent, stem, leaf), members in found.items():
        order = sorted(members)
        whole = order == list(range(order[0], order[0] + len(order))) and (parent, stem, leaf) not in odd
        if (
            (len(order) == 1 and (parent, stem, leaf) in unnumbered)
            or not whole
            or (stem == RAIVNLAB and not _complete(state, parent, order))
        ):
            continue
        weights = tuple(members[i][0] for i in order)
        biases = tuple(bias for i in order if (bias := members[i][1]) is not None)
        if stem == RAIVNLAB and leaf == "weight":
            yield Reading(("raivnlab",), parent, False, weights, biases, False, telling=True)
            if len(order) == 1:
                yield Reading(("raivnlab",), parent, True, weights, biases, False, telling=True)
        else:
            layouts = {"weight": ("linear",), "kernel": COLUMNS, "vars": ("dense",)}[leaf]
            inside = tuple(name[: -2 if leaf == "vars" else -1] for name in weights)
            yield Reading(layouts, parent, False, weights, biases, leaf != "weight", inside=inside)


def _lists(state: State) -> Iterator[Reading]:
    """Matrices of their own in one list, biases in another."""
    for field, layout in (("weights", "mrl"), ("kernels", "flax")):
        for prefix in {name[:-2]: None for name in state if name[-2:-1] == (field,)}:
            weights, biases = (_items(state, (*prefix, part)) for part in (field, "biases"))
            yield Reading((layout,), prefix, False, weights, biases, layout == "flax", telling=True)


def _items(state: State, prefix: Name) -> tuple[Name, ...]:
    """The names ``prefix + (i,)``; none where a number lacks."""
    count = sum(name[:-1] == prefix for name in state)
    names = tuple((*prefix, str(i)) for i in range(count))
    return names if all(name in state for name in names) else ()


def _variables(state: State, scope: Name) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
    """The matrices and the vectors of a layer of Keras, which stores its variables by number."""
    names = _items(state, (*scope, "vars"))
    matrices, vectors = (tuple(name for name in names if len(_shape(state[name])) == n) for n in (2, 1))
    return (matrices, vectors) if len(names) == len(matrices) + len(vectors) else ((), ())


def _numbered(scope: Name) -> tuple[Name, str | None, int]:
    """``(parent, stem, number)`` of the last part: ``Dense_1`` and ``1`` have a number, ``dense`` is the first."""
    if not scope:
        return (), None, 0
    match = NUMBERED.fullmatch(scope[-1])
    return (scope[:-1], match[1] or "", int(match[2])) if match else (scope[:-1], scope[-1], 0)


def _complete(state: State, parent: Name, order: list[int]) -> bool:
    """Whether the classifiers count from zero and none is there in part."""
    depth = len(parent)
    numbers = {
        _numbered(name[: depth + 1])[2]
        for name in state
        if name[:depth] == parent and _numbered(name[: depth + 1])[1] == RAIVNLAB
    }
    return order[0] == 0 and numbers == set(order)


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(size or 0 for size in shape_of("array", array))
