"""What vectors cost: bytes, money and multiply-adds, counted."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .values import ReportCost

MILLION = 1_000_000
GIGABYTE = 1e9


def cost_of(method: str, dim: int, itemsize: int, price: float | None) -> ReportCost:
    """Of a method and size; ``price`` is that of a gigabyte, 10^9 bytes.

    An int8 takes a byte a dimension, binary a bit; its multiply-adds are of bits.

    Example:
        >>> from mrl.report.costs import cost_of
        >>> cost_of("prefix", 256, 4, 2.0).price_per_million, cost_of("binary", 256, 4, None).bytes_per_vector
        (2.048, 32)
    """
    each = {"int8": dim, "binary": math.ceil(dim / 8)}.get(method, dim * itemsize)
    return ReportCost(
        method,
        dim,
        each,
        each * MILLION,
        None if price is None else price * each * MILLION / GIGABYTE,
        dim * MILLION,
    )


def costs_of(places: Iterable[tuple[str, int]], itemsize: int, price: float | None) -> tuple[ReportCost, ...]:
    return tuple(cost_of(method, dim, itemsize, price) for method, dim in places)
