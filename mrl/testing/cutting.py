"""Problems with fewer levels, rows, classes or features: every array is cut along the axes that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..heads import NestedHead, TiedHead
from ..nesting import Nesting
from .problems import Layout, Problem


def axes(problem: Problem, kind: str) -> list[tuple[str, int]]:
    """``(name, size)`` of the axes of a kind: rows may have several, ``"row 0"`` and on."""
    layout = problem.layout
    if kind == "rows":
        return [(f"row {i}", size) for i, size in enumerate(layout.lead)]
    return [(kind, {"levels": len(layout.nesting), "classes": layout.classes, "features": layout.features}[kind])]


def axes_of(problem: Problem, name: str) -> tuple[str, ...]:
    """The axes of one array of a problem."""
    rows = tuple(axis for axis, _ in axes(problem, "rows"))
    if name == "upstream":
        # A loss of all rows, one a row, a prefix, or the logits of every level.
        ndim = problem.upstream.ndim
        kinds = {0: (), len(rows): rows, len(rows) + 1: (*rows, "prefix"), len(rows) + 2: ("levels", *rows, "classes")}
        return kinds[ndim]
    return {
        "z": (*rows, "features"),
        "targets": (*rows, "features"),
        "labels": (*rows, "classes") if problem.layout.soft else rows,
        "sample_weight": rows,
        "class_weight": ("classes",),
        "level_weights": ("levels",),
    }[name]


def arrays_of(problem: Problem) -> dict[str, np.ndarray]:
    """The arrays of a problem by name, but for those of its head."""
    return {name: value for name, value in vars(problem).items() if isinstance(value, np.ndarray)}


def cut(problem: Problem, axis: str, kept: Sequence[int]) -> Problem | None:
    """The problem with these entries of an axis; ``None`` where there is none."""
    layout, nesting = problem.layout, problem.layout.nesting
    index = np.array(kept, int)
    if axis == "levels":
        dims, weights = [nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept]
        if not any(weights) or (layout.frozen and not layout.tied):
            return None  # the places of what is frozen would move
        smaller = replace(layout, nesting=Nesting(dims, weights), width=layout.features)
    elif axis == "features":
        dims = [int(np.sum(index < m)) for m in nesting.dims]
        if dims[0] == 0 or len(set(dims)) < len(dims):
            return None
        smaller = replace(layout, nesting=Nesting(dims, nesting.weights), width=len(kept))
    elif axis == "classes":
        smaller = replace(layout, classes=len(kept))
    else:
        place = int(axis.split()[1])
        smaller = replace(layout, lead=(*layout.lead[:place], len(kept), *layout.lead[place + 1 :]))
    changed: dict[str, Any] = {}
    for name, array in arrays_of(problem).items():
        names = axes_of(problem, name)
        if axis in names:
            changed[name] = np.take(array, index, names.index(axis))
        elif axis == "features" and "prefix" in names:
            changed[name] = array[..., index[index < array.shape[-1]]]
        elif axis == "levels" and "prefix" in names and kept[0] != 0:
            return None  # what is cut there is the first level
    if axis == "classes" and not layout.soft:
        changed["labels"] = _relabelled(problem, index)
    changed["head"] = _cut_head(problem, axis, index)
    return replace(problem, layout=_normal(smaller), **changed)


def flattened(problem: Problem) -> Problem:
    """The problem with one leading axis in place of several."""
    layout = problem.layout
    changed: dict[str, Any] = {}
    for name, array in arrays_of(problem).items():
        names = axes_of(problem, name)
        if "row 0" in names:
            place = names.index("row 0")
            after = array.shape[place + len(layout.lead) :]
            changed[name] = array.reshape(*array.shape[:place], layout.rows, *after)
    return replace(problem, layout=replace(layout, lead=(layout.rows,)), **changed)


def _normal(layout: Layout) -> Layout:
    return replace(layout, width=0) if layout.width == layout.nesting.width else layout


def _relabelled(problem: Problem, kept: np.ndarray) -> np.ndarray:
    """Labels of the classes that are left; those of others become the first."""
    ignored = problem.labels == problem.layout.ignore_index
    place = np.searchsorted(kept, np.clip(problem.labels, 0, None))
    found = np.isin(problem.labels, kept)
    return np.where(ignored, problem.labels, np.where(found, place, 0))


def _cut_head(problem: Problem, axis: str, index: np.ndarray) -> Any:
    head = problem.head
    if isinstance(head, TiedHead):
        if axis == "features":
            return head._replace(weight=np.asarray(head.weight)[:, index])
        if axis == "classes":
            return TiedHead(*(None if leaf is None else np.asarray(leaf)[index] for leaf in head))
        return head
    assert isinstance(head, NestedHead)
    if axis == "features":
        return head._replace(weights=tuple(np.asarray(w)[:, index[index < w.shape[1]]] for w in head.weights))
    if axis == "classes":
        taken = [x if x is None else tuple(np.asarray(leaf)[index] for leaf in x) for x in head]
        return NestedHead(*taken)  # type: ignore[arg-type]
    if axis == "levels":
        taken = [x if x is None else tuple(x[g] for g in index) for x in head]
        return NestedHead(*taken)  # type: ignore[arg-type]
    return head
