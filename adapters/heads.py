"""What the adapters that hold a head check alike, each in its framework's own words elsewhere."""

from __future__ import annotations

from typing import Any

from mrl import checks
from mrl.heads import Head, TiedHead
from mrl.nesting import Nesting


def level_of(nesting: Nesting, dim: int | None) -> int:
    """The index of a granularity, ``None`` for the largest."""
    dim = nesting.width if dim is None else checks.check_integer("dim", dim)
    if dim not in nesting.dims:
        raise ValueError(f"dim: expected one of {nesting.dims}, got {dim}; choose a granularity of the nesting")
    return nesting.dims.index(dim)


def sizes_of(head: Head, nesting: Nesting) -> tuple[int, int]:
    """``(C, D)`` of a head that fits the nesting, as it stands alone; a tied one may be wider."""
    checks.check_nesting(nesting)
    arrays, width = checks.head_arrays(head, nesting), nesting.width
    if isinstance(head, TiedHead):
        width = checks.check_embedding("head.weight", head.weight, width)[-1] or width
    return checks.check_head(head, arrays, nesting, (width,)), width


def check_call(labels: Any, num_items: Any, options: dict[str, Any]) -> None:
    """That what is said of a loss comes with labels, and one thing only of what its sum is divided by."""
    if labels is None and (options or num_items is not None):
        names = ", ".join([*options, *["num_items"] * (num_items is not None)])
        raise TypeError(f"labels: expected class indices or probabilities beside {names}, got None; pass them")
    if num_items is not None and "reduction" in options:
        raise TypeError(
            f"reduction: expected nothing beside num_items, got {options['reduction']!r}; the sum is divided by it"
        )
