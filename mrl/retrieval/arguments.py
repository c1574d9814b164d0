"""What is checked of the arguments of a search, and the messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from .. import checks
from ..heads import Array
from ..nesting import Nesting, is_sequence
from ..protocol import Backend
from .prepared import METRICS, Database


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}; choose one")


def check_rows(name: str, rows: Array) -> int:
    """``D`` of rows ``(N, D)`` with a floating dtype."""
    checks.check_floating(name, rows)
    shape = checks.shape_of(name, rows)
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"{name}: expected shape (N, D) with D at least 1, got {tuple(shape)}; give a row per vector")
    if shape[1] is None:
        raise ValueError(f"{name}: expected a known last axis, got shape {tuple(shape)}; state D in the TensorSpec")
    return shape[1]


def check_database(database: Database, metric: str, arrays: dict[str, Array]) -> None:
    """Rows, and whatever is prepared of them for this metric."""
    name = "database.vectors" if "database.vectors" in arrays else "database"
    width, count = check_rows(name, database.vectors), checks.shape_of(name, database.vectors)[0]
    if not database.prefixes and database.norms is None and database.squares is None:
        return
    if database.metric != metric:
        raise ValueError(
            f"database: expected one prepared for {metric!r}, got one for {database.metric!r}; "
            f"make it with mrl.prepare_database(..., metric={metric!r}), or pass its vectors"
        )
    expected: list[tuple[str, Array, int | None]] = []
    for i, prefix in enumerate(database.prefixes):
        if check_rows(f"database.prefixes[{i}]", prefix) >= width:
            raise ValueError(f"database.prefixes[{i}]: expected fewer than {width} columns, got {prefix.shape}")
        expected.append((f"database.prefixes[{i}]", prefix, None))
    if database.norms is not None:
        expected.append(("database.norms", database.norms, 1))
    if database.squares is not None and len(database.squares) != len(database.prefixes) + 1:
        raise ValueError(
            f"database.squares: expected {len(database.prefixes) + 1} arrays, one a prefix and one of the vectors, "
            f"got {len(database.squares)}; make it with mrl.prepare_database"
        )
    expected += [(f"database.squares[{i}]", square, 1) for i, square in enumerate(database.squares or ())]
    for part, array, rank in expected:
        checks.check_floating(part, array)
        shape = checks.shape_of(part, array)
        if (rank and len(shape) != rank) or (count is not None and shape[0] not in (None, count)):
            raise ValueError(
                f"{part}: expected one entry for each of {count} rows, got shape {tuple(shape)}; "
                "make it with mrl.prepare_database"
            )


def check_dim(name: str, dim: int | None, queries: Array, database: Database) -> int:
    """How many columns count, of queries and rows that both have as many; all of both where nothing is said."""
    width = database.vectors.shape[-1]
    if dim is not None:
        dim = checks.check_integer(name, dim, at_least=1)
        if dim > width:
            raise ValueError(f"{name}: expected an integer in [1, {width}], the width of the database, got {dim}")
    shape = checks.check_embedding("queries", queries, dim or 1)
    if dim is None and shape[-1] != width:
        raise ValueError(
            f"queries: expected shape (..., {width}), as wide as the database, got {tuple(shape)}; "
            "name the dimensions that count with dim="
        )
    return dim or width


def check_candidates(candidates: Array, queries: Array, database: Database, backend: Backend) -> None:
    dtype = checks.dtype_name(candidates)
    if dtype not in checks.INTEGERS:
        raise TypeError(f"candidates: expected an integer dtype, got {dtype}; give rows of the database")
    lead = checks.shape_of("queries", queries)[:-1]
    shape = checks.shape_of("candidates", candidates)
    known = zip(shape[:-1], lead, strict=False)
    if len(shape) != len(lead) + 1 or any(None not in (a, b) and a != b for a, b in known):
        raise ValueError(
            f"candidates: expected shape {(*lead, 'K')}, a list for each query, got {tuple(shape)}; "
            "fill lists up with -1"
        )
    values, count = backend.to_numpy(candidates, blocking=False), database.vectors.shape[0]
    if values is None or not values.size or count is None:
        return
    if values.min() < -1 or values.max() >= count:
        wrong = int(values.min()) if values.min() < -1 else int(values.max())
        raise ValueError(f"candidates: expected rows in [-1, {count}), got {wrong}; leave it out, or write -1")


def check_funnel(dims: Sequence[int], shortlists: Sequence[int]) -> list[tuple[int, int]]:
    """The stages of a funnel: ``(dim, kept)``."""
    chosen = Nesting(dims).dims
    if not is_sequence(shortlists):
        raise TypeError(f"shortlists: expected a sequence of lengths, got {type(shortlists).__name__}; write (200, 10)")
    lengths = [checks.check_integer(f"shortlists[{i}]", k, at_least=1) for i, k in enumerate(shortlists)]
    if len(lengths) != len(chosen):
        raise ValueError(
            f"shortlists: expected one length a stage ({len(chosen)}), got {len(lengths)}; "
            "the last is that of the result"
        )
    for i, (before, after) in enumerate(pairwise(lengths)):
        if after > before:
            raise ValueError(
                f"shortlists: expected lengths that do not increase, got shortlists[{i + 1}] = {after} after {before}; "
                "a stage can keep no more than it is given"
            )
    return list(zip(chosen, lengths, strict=True))


def tracker(progress: bool, what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """What shows how far a loop is, or does nothing."""
    if not progress:
        return iter
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f"progress needs tqdm ({error}); run pip install tqdm") from error
    shown: Callable[[Iterable[Any]], Iterable[Any]] = partial(tqdm, desc=what)
    return shown
