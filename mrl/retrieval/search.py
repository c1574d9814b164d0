"""Exact search on prefixes, candidates scored again, and funnels of both: check, then dispatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import checks
from ..dispatch import settle
from ..heads import Array
from ..nesting import Nesting
from ..protocol import Backend
from . import arguments
from .prepared import Database, SearchResult, named_arrays, of_named, view_of


def search(
    queries: Array,
    database: Array | Database,
    *,
    k: int,
    dim: int | None = None,
    metric: str = "cosine",
    tile: int | None = None,
) -> SearchResult:
    """The ``k`` best rows of a database for every query, exactly.

    With ``q = queries[..., :dim]`` and ``x = database[:, :dim]`` the score is ``(q / ||q||) . (x / ||x||)`` under
    ``"cosine"``, where a prefix with a norm of at most 1e-12 counts as zeros; ``q . x`` under ``"dot"``; and
    ``-||q - x||^2``, computed as ``2 q . x - ||x||^2 - ||q||^2``, under ``"l2"``. The order is by score and then by
    lowest index, at the edge of the ``k`` best too. A row whose score is NaN or minus infinity is never returned.

    Beside the database and the result it holds the scores of one tile: at most 256 queries by as many rows as make
    8 MiB on a CPU (16 MiB of wide rows in JAX and TensorFlow) and 256 MiB elsewhere; what of a tile is widened or
    normalised, up to 64 MiB; in JAX and TensorFlow the maxima of blocks, up to 256 MiB; and in TensorFlow as much of
    the columns that count, where they have not been prepared.

    Args:
        queries: ``(..., D)`` floating, of any framework.
        database: ``(N, D)`` floating of the same framework, memory-mapped if need be; or a :class:`Database`.
        k: how many rows, at least 1; under ``jax.jit`` and in a ``tf.function`` a constant.
        dim: how many leading dimensions count; ``None``: all of the database.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        tile: rows of the database that are scored at a time; ``None`` plans it. The result is the same.

    Returns:
        A :class:`SearchResult` of shape ``(..., k)``: scores in float32 or wider, indices as int64 (JAX's default
        integer). Places without a row, of ``k`` past those there are, hold minus infinity and -1. Nothing in it is
        differentiable.

    Raises:
        TypeError: arrays of two frameworks, no arrays, no floating dtype, or an argument of a wrong kind.
        ValueError: shapes that do not fit each other, an argument out of range, or a database for another metric.

    Example:
        >>> import mrl, numpy as np
        >>> database = np.array([[0.0, 1.0, 5.0], [1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
        >>> result = mrl.search(np.array([[1.0, 0.0, 0.0]]), database, k=2, dim=2)
        >>> result.indices.tolist(), result.scores.round(3).tolist()
        ([[2, 1]], [[1.0, 0.707]])

    Source: arXiv 2205.13147, section 4.3.
    """
    backend, queries, held, _ = _taken(queries, database, metric)
    k = checks.check_integer("k", k, at_least=1)
    dim = arguments.check_dim("dim", dim, queries, held)
    if tile is not None:
        tile = checks.check_integer("tile", tile, at_least=1)
    return _search(backend, queries, held, k=k, dim=dim, metric=metric, tile=tile)


def rerank(
    queries: Array,
    database: Array | Database,
    candidates: Array,
    *,
    k: int,
    dim: int | None = None,
    metric: str = "cosine",
) -> SearchResult:
    """The ``k`` best of each query's own candidates.

    A :func:`search` of these rows alone: the same scores, but that distances are sums of squared differences, and the
    same order. Only the rows of candidates are read.

    Args:
        queries: ``(..., D)`` floating, of any framework.
        database: ``(N, D)`` floating of the same framework, memory-mapped if need be; or a :class:`Database`.
        candidates: ``(..., K)`` integers in ``[-1, N)``, rows of the database; -1 stands for none. What stands twice
            counts once.
        k: how many rows, at least 1.
        dim: how many leading dimensions count; ``None``: all of the database.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as in :func:`search`.

    Returns:
        A :class:`SearchResult` of shape ``(..., k)``, as from :func:`search`.

    Raises:
        TypeError: as :func:`search`, or candidates that are no integers.
        ValueError: as :func:`search`, or a candidate that is no row, where it can be seen; where not, it is left out.

    Example:
        >>> import mrl, numpy as np
        >>> database = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
        >>> mrl.rerank(np.array([[1.0, 0.1]]), database, np.array([[0, 1, -1]]), k=2).indices.tolist()
        [[1, 0]]

    Source: arXiv 2205.13147, section 4.3.
    """
    backend, queries, held, others = _taken(queries, database, metric, candidates=candidates)
    k = checks.check_integer("k", k, at_least=1)
    dim = arguments.check_dim("dim", dim, queries, held)
    candidates = others["candidates"]
    arguments.check_candidates(candidates, queries, held, backend)
    return _rerank(backend, queries, held, candidates, k=k, dim=dim, metric=metric)


def funnel_search(
    queries: Array,
    database: Array | Database,
    *,
    dims: Sequence[int],
    shortlists: Sequence[int],
    metric: str = "cosine",
) -> SearchResult:
    """A search with few dimensions, whose result is reranked with more and more.

    ``r_1 = search(queries, database, k=shortlists[0], dim=dims[0])`` and ``r_i = rerank(queries, database,
    r_{i-1}.indices, k=shortlists[i], dim=dims[i])``; the last is the result. Every prefix is normalised by itself.
    Two stages are the paper's adaptive retrieval. Prefixes that :func:`prepare_database` has made are read from there.

    Args:
        queries: ``(..., D)`` floating, of any framework.
        database: ``(N, D)`` floating of the same framework, memory-mapped if need be; or a :class:`Database`.
        dims: the dimensions of each stage, strictly increasing.
        shortlists: how many rows each stage keeps, not increasing; the last is the length of the result.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as in :func:`search`.

    Returns:
        A :class:`SearchResult` of shape ``(..., shortlists[-1])``: the scores are those of the last stage.

    Raises:
        TypeError: as :func:`search`.
        ValueError: as :func:`search`, or dims and shortlists that are no funnel.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(1000, 64)).astype(np.float32)
        >>> result = mrl.funnel_search(rows[:5], rows, dims=(8, 16, 64), shortlists=(50, 20, 1))
        >>> result.indices.tolist()
        [[0], [1], [2], [3], [4]]

    Source: arXiv 2205.13147, section 4.3.1, "Funnel Retrieval".
    """
    backend, queries, held, _ = _taken(queries, database, metric)
    stages = arguments.check_funnel(dims, shortlists)
    arguments.check_dim("dims", stages[-1][0], queries, held)
    (dim, kept), *rest = stages
    result = _search(backend, queries, held, k=kept, dim=dim, metric=metric, tile=None)
    for dim, kept in rest:
        result = _rerank(backend, queries, held, result.indices, k=kept, dim=dim, metric=metric)
    return result


def prepare_database(
    database: Array, dims: Iterable[int], *, metric: str = "cosine", progress: bool = False
) -> Database:
    """What searches with these dimensions would otherwise make of a database again and again.

    For every ``m`` of ``dims`` below ``D`` the first ``m`` columns, in memory of their own: normalised and in float32
    or wider under ``"cosine"``, as they are under ``"dot"`` and ``"l2"``; and norms, or squared norms, where the metric
    has use for them. The database itself is kept as it is given, not copied. NumPy and PyTorch read it once, 64 MiB at
    a time, so that it may be a memory-mapped file larger than memory: NumPy's ``np.load(path, mmap_mode="r")``, for
    PyTorch ``torch.from_numpy(np.load(path, mmap_mode="c"))``.

    Args:
        database: ``(N, D)`` floating, of any framework.
        dims: the dimensions to prepare, strictly increasing; that of the database may be the last.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        progress: show a bar, with tqdm.

    Returns:
        A :class:`Database`, on the device of what it is made of.

    Raises:
        TypeError: no array, no floating dtype, or an argument of a wrong kind.
        ValueError: a shape that is not ``(N, D)``, or dims out of range or order.
        ImportError: ``progress`` without tqdm; the message says what to install.

    Example:
        >>> import mrl, numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
        >>> database = mrl.prepare_database(rows, (4, 8))
        >>> [prefix.shape for prefix in database.prefixes], database.norms.shape, database.vectors is rows
        ([(100, 4), (100, 8)], (100,), True)

    Source: arXiv 2205.13147, section 4.3.
    """
    arguments.check_metric(metric)
    checks.check_flag("progress", progress)
    backend, arrays = settle({"database": database})
    width = arguments.check_rows("database", arrays["database"])
    if isinstance(dims, Iterable) and not isinstance(dims, (str, Sequence)):
        dims = tuple(dims)
    chosen = Nesting(dims).dims
    if chosen[-1] > width:
        raise ValueError(f"dims: expected dimensions of at most {width}, those of the database, got {chosen}")
    result: Database = backend.prepare_database(
        arrays["database"], dims=chosen, metric=metric, track=arguments.tracker(progress, "prepare")
    )
    return result


def _taken(
    queries: Array, database: Array | Database, metric: str, **others: Array
) -> tuple[Backend, Array, Database, dict[str, Array]]:
    """The arguments of one backend, unwrapped and checked."""
    arguments.check_metric(metric)
    backend, arrays = settle({"queries": queries, **named_arrays(database), **others})
    held = of_named(database, arrays)
    arguments.check_database(held, metric, named_arrays(held) if isinstance(database, Database) else arrays)
    return backend, arrays["queries"], held, {name: arrays[name] for name in others}


def _search(
    backend: Backend, queries: Array, held: Database, *, k: int, dim: int, metric: str, tile: int | None
) -> SearchResult:
    view = view_of(held, dim, metric)
    result: SearchResult = backend.search(
        queries, view.rows, view.lengths, k=k, dim=dim, metric=metric, normalized=view.normalized, tile=tile
    )
    return result


def _rerank(
    backend: Backend, queries: Array, held: Database, candidates: Array, *, k: int, dim: int, metric: str
) -> SearchResult:
    view = view_of(held, dim, metric)
    result: SearchResult = backend.rerank(
        queries, view.rows, view.lengths, candidates, k=k, dim=dim, metric=metric, normalized=view.normalized
    )
    return result
