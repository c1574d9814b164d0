"""What the neighbours of every query are worth: a figure a query, NaN where it has none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..retrieval import metrics
from .neighbours import Indices, Method, Queries

Float = NDArray[np.float64]
Measured = dict[tuple[str, int, str], Float]
"""Figures a query by method, size and metric."""


def measure_rankings(found: Mapping[Method, Indices], queries: Queries, labels: Indices | None, k: int) -> Measured:
    """Recall against the full width; against labels, or what is relevant, precision, mAP, nDCG and the nearest row.

    Args:
        found: ``(Q, k)`` positions by method and size, the largest size the last.
        queries: what was asked.
        labels: ``(N,)`` classes of the rows, if there are any.
        k: how many count.
    """
    exact = found["prefix", max(m for _, m in found)]
    none = np.full(len(exact), np.nan)
    measured: Measured = {}
    asked = queries.asked
    for (method, m), indices in found.items():

        def put(metric: str, values: Float, where: NDArray[np.bool_], at: Method = (method, m)) -> None:
            whole = none.copy()
            whole[where] = values
            measured[(*at, metric)] = whole

        put("recall_at_k", metrics.recall_at_k(indices[asked], exact[asked], k, reduction="none"), asked)
        if labels is not None and (queries.labels >= 0).any():
            known = queries.labels >= 0
            gains = with_ideal(indices[known], queries.labels[known], queries.own[known], labels)
            put("nn_accuracy", gains[:, 0], known)
            if queries.relevant is None:
                places = np.broadcast_to(np.arange(k), (len(gains), k))
                for name, function in MEASURES.items():
                    put(name, function(places, gains, k, reduction="none"), known)
        if queries.relevant is not None:
            known = np.asarray((queries.relevant >= 0).any(1))
            for name, function in MEASURES.items():
                put(name, function(indices[known], queries.relevant[known], k, reduction="none"), known)
    return measured


MEASURES = {
    "precision_at_k": metrics.precision_at_k,
    "map_at_k": metrics.mean_average_precision_at_k,
    "ndcg_at_k": metrics.ndcg_at_k,
}


def with_ideal(indices: Indices, own: Indices, itself: Indices, labels: Indices) -> Float:
    """``(Q, 2k)`` gains: of the ``k`` places, and then of as many relevant rows as the best ranking has beside them.

    So the measures know how many rows are relevant, without a list of them all: a query that is a row has itself
    taken off.
    """
    k = indices.shape[1]
    gains = (indices >= 0) & (labels[indices] == own[:, None])
    total = np.bincount(labels, minlength=int(own.max()) + 1)[own] - (itself >= 0)
    missing = np.minimum(total, k) - gains.sum(1)
    return np.concatenate([gains, np.arange(k) < missing[:, None]], 1).astype(np.float64)
