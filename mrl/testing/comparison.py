"""How far a result is from the specification, as a share of its bounds, and what is said of one that is too far."""

from __future__ import annotations

import numpy as np

from .drivers import Result
from .problems import Float
from .rounding import Bounded


def compare(expected: Bounded, result: Result) -> tuple[float, str]:
    """The largest error of a result as a share of its bound, and the output where it is."""
    worst, where = 0.0, "-"
    for name, x in named_outputs(expected, result).items():
        share = share_of(x, *expected[name])
        if np.shape(x) != np.shape(expected[name][0]):
            return share, f"{name} (shape {np.shape(x)}, expected {np.shape(expected[name][0])})"
        if share > worst:
            worst, where = share, name
    return worst, where


def share_of(x: Float, value: Float, bound: Float) -> float:
    """The largest error of one output as a share of its bound; infinite for another shape."""
    return float(np.max(_shares(x, value, bound), initial=0.0)) if np.shape(x) == np.shape(value) else np.inf


def wrong_outputs(expected: Bounded, result: Result) -> list[str]:
    """A line for every output that is off: by how much, and what came for what where it is most."""
    lines = []
    for name, x in named_outputs(expected, result).items():
        value, bound = expected[name]
        if np.shape(x) != np.shape(value):
            lines.append(f"{name} has shape {np.shape(x)}, expected {np.shape(value)}")
            continue
        shares = _shares(np.asarray(x), value, bound)
        if not np.max(shares, initial=0.0) > 1:
            continue
        worst = np.unravel_index(np.argmax(shares), shares.shape)
        place = f" at {tuple(map(int, worst))}" if worst else ""
        lines.append(
            f"{name} is {shares[worst]:.3g} times its error bound away from the specification "
            f"({x[worst]:.9g} for {value[worst]:.9g} within {np.broadcast_to(bound, shares.shape)[worst]:.3g}{place})"
        )
    return lines


def named_outputs(expected: Bounded, result: Result) -> dict[str, Float]:
    """The outputs and gradients that came, by the names that they have in ``expected``."""
    values = [name for name in expected if not name.startswith("d")]
    gradients = [name for name in expected if name.startswith("d")]
    found = dict(zip(values, result.outputs, strict=False))  # a loss of a user gives no more than the total
    if result.gradients is not None:
        found |= {name: x for name, x in zip(gradients, result.gradients, strict=True) if x is not None}
    return found


def _shares(x: Float, value: Float, bound: Float) -> Float:
    agree = (np.isnan(x) & np.isnan(value)) | (x == value)  # infinities too
    with np.errstate(all="ignore"):
        shares = np.where(agree, 0.0, np.abs(x - value) / bound)
    return np.where(np.isnan(shares), np.inf, shares)
