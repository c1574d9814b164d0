"""Ways to a smaller embedding: each is a map of rows, of whose result the first dimensions are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..losses import truncate
from .values import METHODS

Float = NDArray[np.float32]

GIVEN = ("rotation", "adaptor")
"""Those whose map is handed in."""


class Way(NamedTuple):
    """A method.

    Attributes:
        name: one of :data:`METHODS`.
        turn: rows ``(n, D)`` to ``(n, D')``; queries too.
        metric: by which the first dimensions of what comes are compared.
        means: by which they are compared with the means of classes.
        exact: whether at the full width it is the full width.
    """

    name: str
    turn: Callable[[Float], Float]
    metric: str
    means: str
    exact: bool


def ways_of(rows: Float, metric: str, seed: int, transforms: Mapping[str, Any]) -> list[Way]:
    """All methods, with axes and scales from these rows, which are finite."""
    width = rows.shape[1]
    unit = unit_rows if metric == "cosine" else as_it_is
    axes = principal_axes(unit(rows))
    order = np.random.default_rng(seed).permutation(width)
    scale = steps(unit(rows))
    ways = [
        Way("prefix", as_it_is, metric, metric, True),
        Way("pca", lambda x: x @ axes, metric, metric, True),
        Way("random", lambda x: x.take(order, 1), metric, metric, True),
        Way("unnormalized", unit_rows, "dot", "dot", True),
        Way("last", lambda x: x[:, ::-1], metric, metric, True),
        Way("int8", lambda x: rounded(unit(x), scale), metric, metric, False),
        Way("binary", signs, "dot", "cosine", False),
    ]
    if metric != "cosine":  # nothing is normalised, so that nothing is left out
        ways = [way for way in ways if way.name != "unnormalized"]
    for name in METHODS:
        if name in transforms:
            ways.append(Way(name, checked(name, transforms[name]), metric, metric, False))
    return ways


def as_it_is(x: Float) -> Float:
    return x


def unit_rows(x: Float) -> Float:
    """Rows of length 1, as :func:`mrl.truncate` makes them; in one pass where no square is out of range."""
    squares = np.einsum("nd,nd->n", x, x)
    if not ((squares > 1e-20) & (squares < 1e30)).all():
        found: Float = truncate(np.ascontiguousarray(x), x.shape[1])
        return found
    unit: Float = x / np.sqrt(squares)[:, None]
    return unit


def principal_axes(x: Float) -> Float:
    """The orthogonal axes of most second moment about the origin, the largest first, as columns.

    Not about the mean, because a cosine is about the origin: at the full width the neighbours are the same.
    """
    total = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), 4096):
        part = x[start : start + 4096]
        total += part.T @ part
    _, axes = np.linalg.eigh(total)
    turned: Float = axes[:, ::-1].astype(np.float32)
    return turned


def steps(x: Float) -> Float:
    """Of each dimension the step of an int8: a 127th of the largest absolute value; 1 where that is 0."""
    largest = np.abs(x).max(0) / np.float32(127)
    found: Float = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    return found


def rounded(x: Float, step: Float) -> Float:
    """What int8 keeps: ``step * clip(round(x / step), -127, 127)``."""
    found: Float = np.clip(np.rint(x / step), -127, 127) * step
    return found


def signs(x: Float) -> Float:
    """1 where a number is above 0, else -1: such rows have the product ``m - 2 hamming``, exactly: ties are ties."""
    found: Float = np.where(x > 0, np.float32(1), np.float32(-1))
    return found


def checked(name: str, turn: Any) -> Callable[[Float], Float]:
    """A map that was handed in, whose result is looked at."""

    def turned(x: Float) -> Float:
        y = np.asarray(turn(x))
        if y.ndim != 2 or len(y) != len(x) or y.dtype.kind != "f" or not y.shape[1]:
            raise ValueError(
                f"transforms[{name!r}]: expected a floating array of shape ({len(x)}, D'), got {y.dtype} of shape "
                f"{y.shape}; give a function of rows (n, D) as a NumPy array"
            )
        return y.astype(np.float32, copy=False)

    return turned


def check_transforms(transforms: Any) -> Mapping[str, Any]:
    if transforms is None:
        return {}
    if not isinstance(transforms, Mapping):
        raise TypeError(f"transforms: expected a mapping of names to functions, got {type(transforms).__name__}")
    for name, turn in transforms.items():
        if name not in GIVEN:
            raise ValueError(f"transforms: expected names of {GIVEN}, got {name!r}; choose one of them")
        if not callable(turn):
            raise TypeError(f"transforms[{name!r}]: expected a function of rows, got {type(turn).__name__}")
    return transforms
