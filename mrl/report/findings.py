"""What a reader has to know of the data before any figure: each a sentence, said where it is so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .source import Scan
from .values import Finding

UNIT = 0.01
"""How far a length may be from 1."""

FEW = 100
"""Queries below which every interval is wide."""

SHOWN = 8


def find_not_finite(scan: Scan, what: str = "rows") -> Finding | None:
    lost = int(np.count_nonzero(~scan.finite))
    if not lost:
        return None
    return Finding("not_finite", f"{lost:,} of {len(scan.finite):,} {what} contain NaN or infinity, and were left out.")


def find_zeros(scan: Scan) -> Finding | None:
    lost = int(np.count_nonzero(scan.norms[scan.finite] <= 1e-12))
    if not lost:
        return None
    return Finding("zeros", f"{lost:,} of {np.count_nonzero(scan.finite):,} rows are all zeros and have no direction.")


def find_lengths(scan: Scan) -> Finding | None:
    """Rows that are not normalised: more than one in a hundred is longer or shorter than 1 by a hundredth."""
    norms = scan.norms[scan.finite]
    if np.count_nonzero(np.abs(norms - 1) > UNIT) <= 0.01 * len(norms):
        return None
    low, middle, high = np.quantile(norms, [0.01, 0.5, 0.99])
    return Finding(
        "not_normalized",
        f"The rows are not normalised: their lengths run from {low:.3g} to {high:.3g}, {middle:.3g} in the middle; a "
        "cosine does not see that, a dot product does.",
    )


def find_duplicates(scan: Scan) -> Finding | None:
    if not scan.repeated:
        return None
    usable = np.count_nonzero(scan.finite)
    told = f"{scan.repeated:,} are duplicates" if scan.repeated > 1 else "one is a duplicate"
    return Finding(
        "duplicates",
        f"{scan.equal:,} of {usable:,} rows are equal to another: {told}. Equal rows are each other's nearest "
        "neighbours at every size.",
    )


def find_constant(scan: Scan, width: int) -> Finding | None:
    count = len(scan.constant)
    if not count or not scan.finite.any():
        return None
    names = ", ".join(str(i) for i in scan.constant[:SHOWN]) + (", ..." if count > SHOWN else "")
    verb = "is" if count == 1 else "are"
    return Finding(
        "constant_dims", f"{count:,} of {width:,} dimensions {verb} constant, the same in all rows: {names}."
    )


def find_sampled_queries(asked: int, among: int, what: str) -> Finding | None:
    if what == "given" and asked == among:
        return None
    if what == "given":
        return Finding("sampled_queries", f"{asked:,} of the {among:,} queries, drawn at random, were asked.")
    return Finding(
        "rows_as_queries",
        f"{asked:,} of {among:,} rows, drawn at random, are the queries; none counts as its own neighbour."
        if asked < among
        else f"All {among:,} rows are queries, too; none counts as its own neighbour.",
    )


def find_sampled_rows(searched: int, among: int) -> Finding | None:
    if searched == among:
        return None
    return Finding(
        "sampled_rows",
        f"{searched:,} of {among:,} rows, drawn at random, were searched; among all rows neighbours are nearer, and a "
        "small size keeps fewer of them.",
    )


def find_few_queries(asked: int) -> Finding | None:
    if asked >= FEW:
        return None
    return Finding("few_queries", f"There are too few queries, {asked}, for narrow intervals: ask {FEW} or more.")


def findings_of(
    scan: Scan, width: int, *, of_queries: Scan | None, asked: int, among: int, what: str, searched: int
) -> tuple[Finding, ...]:
    """All that are so, in the order of their weight."""
    usable = int(np.count_nonzero(scan.finite))
    found = [
        find_not_finite(scan),
        None if of_queries is None else find_not_finite(of_queries, "queries"),
        find_zeros(scan),
        find_duplicates(scan),
        find_constant(scan, width),
        find_lengths(scan),
        find_few_queries(asked),
        find_sampled_rows(searched, usable),
        find_sampled_queries(asked, among, what),
    ]
    return tuple(finding for finding in found if finding is not None)


def usable_rows(name: str, scan: Scan) -> NDArray[np.int64] | None:
    """The finite rows, ``None`` where all are.

    Raises:
        ValueError: none is.
    """
    if scan.finite.all():
        return None
    if not scan.finite.any():
        raise ValueError(
            f"{name}: expected finite numbers (in float32) in some row, got NaN or infinity in all; encode them again"
        )
    return np.flatnonzero(scan.finite)
