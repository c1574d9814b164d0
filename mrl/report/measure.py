"""Can these embeddings be cut, to what, and what does it cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..heads import Array
from .values import Report


def report(
    embeddings: Array,
    *,
    labels: Any = None,
    queries: Array | None = None,
    query_labels: Any = None,
    relevant: Any = None,
    dims: Sequence[int] | None = None,
    k: int = 10,
    metric: str = "cosine",
    price: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    confidence_level: float = 0.95,
    backend: str | None = None,
    transforms: Mapping[str, Any] | None = None,
    progress: bool = False,
    title: str = "embeddings",
) -> Report:
    """Whether embeddings can be cut, to how many dimensions, and what that costs and saves.

    Of every size the prefix, and of the same size PCA, random coordinates, the prefix that is not normalised again, the
    last dimensions, int8 and one bit a dimension, are compared with the full width: ``recall_at_k`` of its ``k``
    nearest rows, and ``rank_correlation``, Kendall's tau of scores; against labels or relevant rows
    ``precision_at_k``, ``map_at_k`` and ``ndcg_at_k``; with labels ``nn_accuracy``, ``linear_accuracy``,
    ``fewshot_accuracy_1``, ``_5`` and ``_10``, and ``rare_accuracy``. Each has an interval, a bootstrap over queries or
    held-out rows that counts what was not seen, too. ``docs/report.md`` defines them all.

    Rows with NaN or infinity are left out, and counted. Without ``queries`` rows drawn at random are the queries, and
    none is its own neighbour. What is sampled, because all of it would take more than minutes, ``data`` and
    ``findings`` say.

    Args:
        embeddings: ``(N, D)`` floating, of any framework; NumPy's may be memory-mapped. Computed in float32.
        labels: ``(N,)`` integers or strings, the classes of the rows.
        queries: ``(Q, D)`` floating; ``None``: rows are.
        query_labels: ``(Q,)`` the classes of the queries; without them, rows are asked for theirs.
        relevant: ``(Q, R)`` integers, the rows that are relevant to each query, filled up with -1.
        dims: the sizes, strictly increasing; the full width is always one. ``None``: powers of two below it.
        k: of the metrics "at k".
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        price: of a gigabyte (10^9 bytes) of memory, in a currency and for a time of yours.
        sample: how many queries to ask; ``None`` plans it: 1000, or fewer of very many rows.
        seed: of all draws: queries, splits, shots, coordinates, resamplings.
        confidence_level: of the intervals, between 0 and 1.
        backend: where to search, such as ``"torch"``; ``None``: where the embeddings are.
        transforms: ``{"rotation": f, "adaptor": g}``: functions of rows ``(n, D)`` as NumPy's float32, compared at
            each size beside the others.
        progress: show bars, with tqdm.
        title: the name of the data.

    Returns:
        A :class:`Report`; ``str`` of it is text, and it has ``to_json``, ``to_html`` and ``to_markdown``.

    Raises:
        TypeError: no arrays, no floating dtype, or an argument of a wrong kind.
        ValueError: shapes that do not fit, labels of one class, fewer rows than ``k``, no finite row, or an argument
            out of range.
        ImportError: a backend or tqdm that is missing.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = (rng.normal(size=(500, 32)) * 0.8 ** np.arange(32)).astype(np.float32)
        >>> found = mrl.report(rows, dims=(8, 16), k=5)
        >>> found.sizes, found.rows[0]._fields
        ((8, 16, 32), ('method', 'dim', 'metric', 'value', 'low', 'high'))
        >>> [row.value > 0.9 for row in found.rows if row[:3] == ("prefix", 16, "recall_at_k")]
        [True]

    Source: arXiv 2205.13147, sections 4.2 and 4.3, appendix E.
    """
    from .assemble import assemble

    return assemble(
        embeddings,
        labels=labels,
        queries=queries,
        query_labels=query_labels,
        relevant=relevant,
        dims=dims,
        k=k,
        metric=metric,
        price=price,
        sample=sample,
        seed=seed,
        confidence_level=confidence_level,
        backend=backend,
        transforms=transforms,
        progress=progress,
        title=title,
    )
