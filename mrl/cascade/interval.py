"""A number and how sure it is."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """A number with the ends of its interval.

    Attributes:
        value: what was found.
        low: where the interval begins.
        high: where it ends.

    Example:
        >>> import mrl
        >>> print(mrl.Interval(0.75, 0.5, 1.0))
        0.75 [0.5, 1]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
