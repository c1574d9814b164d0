"""How good a ranking is: the measures of the paper, exactly as it defines them.

Every function takes ``indices`` ``(..., K)``, the rows that were found from the best to the worst, as
:func:`mrl.search` gives them: of any framework, -1 where there is nothing. What is ``relevant`` is one of

- ``(query_labels, database_labels)``, of shapes ``(...)`` and ``(N,)``: a row is relevant if the labels are equal;
- ``(..., R)`` integers, the relevant rows of every query, filled up with -1: those of an exact search, say;
- ``(..., N)`` bools or floats, the relevance of every row: more than 0 counts as relevant, and
  :func:`ndcg_at_k` takes it as the gain.

They compute on the host in float64, and give a float, the mean over queries, or one for each query.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import backend_of, unwrap
from ..heads import Array

__all__ = [
    "mean_average_precision_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
    "top1_accuracy",
]

Float = NDArray[np.float64]


class Ranked(NamedTuple):
    """The gain of every place of a ranking ``(Q, K)``, the best gains of each query, and how many are not zero."""

    gains: Float
    ideal: Float
    total: NDArray[np.int64]
    lead: tuple[int, ...]


def precision_at_k(indices: Array, relevant: Any, k: int, *, reduction: str = "mean") -> Any:
    """The share of the first ``k`` places that hold relevant rows: ``P@k = hits / k``.

    It is divided by ``k`` where fewer rows were found, or are relevant, too.

    Args:
        indices: ``(..., K)`` integers, ``K >= k``.
        relevant: as at the top of :mod:`mrl.metrics`.
        k: how many places count, at least 1.
        reduction: ``"mean"`` over queries, or ``"none"``.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError: indices that are no integers, or a relevance of another kind.
        ValueError: shapes that do not fit, ``k`` out of range, or a row out of range.

    Example:
        >>> import mrl
        >>> mrl.metrics.precision_at_k([[4, 1, 0, 2]], [[0, 4, 7]], k=4)
        0.5

    Source: arXiv 2205.13147, appendix E.
    """
    ranked = _ranked(indices, relevant, k)
    return _reduced((ranked.gains[:, :k] > 0).mean(-1), ranked.lead, reduction)


def recall_at_k(indices: Array, relevant: Any, k: int, *, reduction: str = "mean") -> Any:
    """The share of the relevant rows that are among the first ``k``: ``R@k = hits / relevant``.

    A query without a relevant row is NaN, and takes no part in the mean.

    Args:
        indices: ``(..., K)`` integers, ``K >= k``.
        relevant: as at the top of :mod:`mrl.metrics`.
        k: how many places count, at least 1.
        reduction: ``"mean"`` over queries, or ``"none"``.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError, ValueError: as :func:`precision_at_k`.

    Example:
        >>> import mrl
        >>> mrl.metrics.recall_at_k([[4, 1, 0, 2]], [[0, 4, 7, -1]], k=2) == 1 / 3
        True

    Source: arXiv 2205.13147, appendix E.
    """
    ranked = _ranked(indices, relevant, k)
    with np.errstate(invalid="ignore"):
        return _reduced((ranked.gains[:, :k] > 0).sum(-1) / ranked.total, ranked.lead, reduction)


def mean_average_precision_at_k(indices: Array, relevant: Any, k: int, *, reduction: str = "mean") -> Any:
    """The mean over queries of ``AP@k = (1 / k) sum_{i <= k} rel_i P@i``.

    As in the paper it is divided by ``k``, and not by the number of relevant rows: where fewer than ``k`` are relevant,
    1 is out of reach.

    Args:
        indices: ``(..., K)`` integers, ``K >= k``.
        relevant: as at the top of :mod:`mrl.metrics`.
        k: how many places count, at least 1.
        reduction: ``"mean"`` over queries, or ``"none"``: ``AP@k`` of each.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError, ValueError: as :func:`precision_at_k`.

    Example:
        >>> import mrl
        >>> mrl.metrics.mean_average_precision_at_k([[4, 1, 0, 2]], [[0, 4, 7]], k=4) == (1 + 2 / 3) / 4
        True

    Source: arXiv 2205.13147, appendix E.
    """
    ranked = _ranked(indices, relevant, k)
    hits = ranked.gains[:, :k] > 0
    precision = np.cumsum(hits, -1) / np.arange(1, k + 1)
    return _reduced((hits * precision).sum(-1) / k, ranked.lead, reduction)


def ndcg_at_k(indices: Array, relevant: Any, k: int, *, reduction: str = "mean") -> Any:
    """``DCG@k`` over that of the best ranking, with ``DCG@k = sum_{i <= k} gain_i / log2(i + 1)``.

    Gains are the relevance itself: 0 or 1, or the floats that are given. A query without a relevant row is NaN, and
    takes no part in the mean.

    Args:
        indices: ``(..., K)`` integers, ``K >= k``.
        relevant: as at the top of :mod:`mrl.metrics`.
        k: how many places count, at least 1.
        reduction: ``"mean"`` over queries, or ``"none"``.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError, ValueError: as :func:`precision_at_k`.

    Example:
        >>> import mrl
        >>> mrl.metrics.ndcg_at_k([[2, 0]], [[3.0, 0.0, 1.0]], k=2).__round__(3)
        0.797

    Source: Järvelin and Kekäläinen, ACM TOIS 20 (2002).
    """
    ranked = _ranked(indices, relevant, k)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = ranked.ideal[:, :k] @ discount[: ranked.ideal.shape[1]]
    with np.errstate(invalid="ignore"):
        return _reduced(ranked.gains[:, :k] @ discount / np.where(ideal > 0, ideal, np.nan), ranked.lead, reduction)


def reciprocal_rank(indices: Array, relevant: Any, *, reduction: str = "mean") -> Any:
    """One over the place of the first relevant row; 0 where none was found.

    Args:
        indices: ``(..., K)`` integers.
        relevant: as at the top of :mod:`mrl.metrics`.
        reduction: ``"mean"`` over queries, or ``"none"``.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError, ValueError: as :func:`precision_at_k`.

    Example:
        >>> import mrl
        >>> mrl.metrics.reciprocal_rank([[4, 1], [3, 2]], [[1], [3]])
        0.75

    Source: Voorhees, TREC-8 (1999).
    """
    ranked = _ranked(indices, relevant, 1)
    hits = ranked.gains > 0
    return _reduced(np.where(hits.any(-1), 1 / (1 + hits.argmax(-1)), 0.0), ranked.lead, reduction)


def top1_accuracy(indices: Array, relevant: Any, *, reduction: str = "mean") -> Any:
    """The share of queries whose first row is relevant: the paper's 1-nearest-neighbour accuracy.

    Args:
        indices: ``(..., K)`` integers.
        relevant: as at the top of :mod:`mrl.metrics`.
        reduction: ``"mean"`` over queries, or ``"none"``.

    Returns:
        A float, or ``(...)`` in float64.

    Raises:
        TypeError, ValueError: as :func:`precision_at_k`.

    Example:
        >>> import mrl, numpy as np
        >>> mrl.metrics.top1_accuracy([[2], [0]], (np.array([5, 6]), np.array([7, 6, 5])))
        0.5

    Source: arXiv 2205.13147, section 4.2.
    """
    return precision_at_k(indices, relevant, 1, reduction=reduction)


def _ranked(indices: Array, relevant: Any, k: int) -> Ranked:
    found = _host("indices", indices)
    if found.dtype.kind not in "iu":
        raise TypeError(f"indices: expected an integer dtype, got {found.dtype}; give rows of the database")
    if not found.ndim:
        raise ValueError("indices: expected shape (..., K), got a scalar; give a ranking for every query")
    k = checks.check_integer("k", k, at_least=1)
    if k > found.shape[-1]:
        raise ValueError(f"k: expected an integer in [1, {found.shape[-1]}], the places that there are, got {k}")
    lead, found = found.shape[:-1], found.reshape(-1, found.shape[-1]).astype(np.int64)
    if isinstance(relevant, tuple):
        if len(relevant) != 2:
            raise ValueError(f"relevant: expected (query_labels, database_labels), got {len(relevant)} of them")
        own, rows = _host("relevant[0]", relevant[0]), _host("relevant[1]", relevant[1])
        if own.shape != lead or rows.ndim != 1:
            raise ValueError(
                f"relevant: expected labels of shapes {lead} and (N,), got {own.shape} and {rows.shape}; "
                "give one label a query and one a row"
            )
        _check_range(found, len(rows))
        own = own.reshape(-1, 1)
        gains = (found >= 0) & (rows[found] == own) if len(rows) else np.zeros(found.shape, bool)
        names, counts = np.unique(rows, return_counts=True)
        place = np.minimum(np.searchsorted(names, own[:, 0]), max(len(names) - 1, 0))
        total = np.where(names[place] == own[:, 0], counts[place], 0) if len(names) else np.zeros(len(own), int)
        return _with_ones(gains, total, lead)
    given = _host("relevant", relevant)
    if given.shape[:-1] != lead or not given.ndim:
        raise ValueError(f"relevant: expected shape {(*lead, 'R')}, one row a query, got {given.shape}; match indices")
    given = given.reshape(len(found), given.shape[-1])
    if given.dtype.kind in "iu":
        listed = np.sort(given.astype(np.int64), -1)
        fresh = np.concatenate([listed[:, :1] >= 0, (listed[:, 1:] != listed[:, :-1]) & (listed[:, 1:] >= 0)], 1)
        gains = np.stack([np.isin(a, b) for a, b in zip(found, given, strict=True)]) if len(found) else found > 0
        return _with_ones(gains & (found >= 0), fresh.sum(-1), lead)
    _check_range(found, given.shape[1])
    values = given.astype(np.float64)
    if not (values >= 0).all() or not np.isfinite(values).all():
        raise ValueError("relevant: expected finite gains that are not negative, got others; use 0 for no relevance")
    taken = np.take_along_axis(values, np.maximum(found, 0), -1) if values.shape[1] else np.zeros(found.shape)
    return Ranked(np.where(found >= 0, taken, 0.0), -np.sort(-values, -1), (values > 0).sum(-1), lead)


def _with_ones(gains: NDArray[np.bool_], total: NDArray[np.int64], lead: tuple[int, ...]) -> Ranked:
    ideal = np.arange(gains.shape[1]) < total[:, None]
    return Ranked(gains.astype(np.float64), ideal.astype(np.float64), total, lead)


def _host(name: str, array: Any) -> NDArray[Any]:
    opened = np.asarray(array) if isinstance(array, (list, tuple)) else unwrap(array)
    values: NDArray[Any] = np.asarray(backend_of({name: opened}).to_numpy(opened, blocking=True))
    if values.dtype.kind not in "iufb" and values.dtype.name != "bfloat16":
        raise TypeError(f"{name}: expected numbers, got {values.dtype}; give indices, labels or gains")
    return values


def _check_range(found: NDArray[np.int64], count: int) -> None:
    if found.size and found.max() >= count:
        raise ValueError(f"indices: expected rows in [-1, {count}), got {found.max()}; match what is relevant")


def _reduced(values: Float, lead: tuple[int, ...], reduction: str) -> Any:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction: expected 'mean' or 'none', got {reduction!r}; choose one")
    if reduction == "none":
        return values.reshape(lead)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
