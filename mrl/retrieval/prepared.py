"""What is searched and what is found: a prepared database and its results, as named tuples of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..heads import Array

METRICS = ("cosine", "dot", "l2")


class SearchResult(NamedTuple):
    """The best rows of every query, by score and then by lowest index.

    Attributes:
        scores: ``(..., k)`` in float32 or wider, from the best to the worst; minus infinity where there is nothing.
        indices: ``(..., k)`` integer rows of the database (int64; JAX's default integer); -1 where there is nothing.

    Example:
        >>> import mrl, numpy as np
        >>> result = mrl.search(np.eye(2), np.eye(2), k=1)
        >>> result.scores.tolist(), result.indices.tolist()
        ([[1.0], [1.0]], [[0], [1]])

    Source: arXiv 2205.13147, section 4.3.
    """

    scores: Array
    indices: Array


class Database(NamedTuple):
    """Rows to search, beside what a search would otherwise make of them again and again.

    Made by :func:`mrl.prepare_database`. A tuple of arrays, so that it passes through the transforms of every
    framework; the metric is told from which of its fields are there.

    Attributes:
        vectors: ``(N, D)`` floating, as given; may be memory-mapped.
        prefixes: one ``(N, m)`` array a dimension ``m < D``, in memory of its own: normalised and in float32 or wider
            under ``"cosine"``, the first columns as they are under ``"dot"`` and ``"l2"``.
        norms: ``(N,)``, of the vectors; under ``"cosine"``, else ``None``.
        squares: one ``(N,)`` array a prefix and one of the vectors, their squared norms; under ``"l2"``, else ``None``.

    Example:
        >>> import mrl, numpy as np
        >>> database = mrl.prepare_database(np.ones((5, 8), np.float32), (2, 8))
        >>> database.metric, database.dims, database.prefixes[0].shape
        ('cosine', (2, 8), (5, 2))

    Source: arXiv 2205.13147, section 4.3.
    """

    vectors: Array
    prefixes: tuple[Array, ...] = ()
    norms: Array | None = None
    squares: tuple[Array, ...] | None = None

    @property
    def metric(self) -> str:
        """What it is prepared for: ``"cosine"``, ``"dot"`` or ``"l2"``."""
        return "cosine" if self.norms is not None else "dot" if self.squares is None else "l2"

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that need no more preparation, of which the last is that of the vectors."""
        return (*(prefix.shape[-1] for prefix in self.prefixes), self.vectors.shape[-1])


class View(NamedTuple):
    """The rows that serve one dimension, and what is known of them.

    ``lengths`` are the norms of their prefixes under ``"cosine"``, the squared norms under ``"l2"``; ``None`` where
    nobody has them. Rows that are ``normalized`` need none.
    """

    rows: Array
    lengths: Array | None
    normalized: bool


def view_of(database: Database, dim: int, metric: str) -> View:
    """The narrowest rows of a database that have ``dim`` columns."""
    for place, prefix in enumerate(database.prefixes):
        if prefix.shape[-1] == dim:
            squares = None if database.squares is None else database.squares[place]
            return View(prefix, squares, metric == "cosine" and database.norms is not None)
    if database.vectors.shape[-1] != dim:
        return View(database.vectors, None, False)
    return View(database.vectors, database.norms if database.squares is None else database.squares[-1], False)


def named_arrays(database: Any) -> dict[str, Array]:
    """The arrays of a database, or the one that stands for it, by the names that errors give them."""
    if not isinstance(database, Database):
        return {"database": database}
    arrays = {"database.vectors": database.vectors}
    arrays |= {f"database.prefixes[{i}]": prefix for i, prefix in enumerate(database.prefixes)}
    if database.norms is not None:
        arrays["database.norms"] = database.norms
    return arrays | {f"database.squares[{i}]": square for i, square in enumerate(database.squares or ())}


def of_named(database: Any, arrays: dict[str, Array]) -> Database:
    """The database that :func:`named_arrays` took apart, of the arrays that have its names."""
    if not isinstance(database, Database):
        return Database(arrays["database"])
    squares = None
    if database.squares is not None:
        squares = tuple(arrays[f"database.squares[{i}]"] for i in range(len(database.squares)))
    prefixes = tuple(arrays[f"database.prefixes[{i}]"] for i in range(len(database.prefixes)))
    return Database(arrays["database.vectors"], prefixes, arrays.get("database.norms"), squares)
