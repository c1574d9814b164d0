"""Exact search by tiles of scores and a running threshold; candidates, scored again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrl.retrieval.planning import BLOCK, ROW_BYTES, plan_tile
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import wide_dtype
from .best import Found
from .scores import complete, over_norms, row_norms, unit_rows


def search(
    queries: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray | None,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> SearchResult:
    lead, wide = queries.shape[:-1], wide_dtype(queries, rows)
    q, offsets = _prepared(queries.reshape(math.prod(lead), queries.shape[-1])[:, :dim].astype(wide), metric)
    copied = rows.dtype != wide or (metric == "cosine" and not normalized and lengths is None)
    plan = plan_tile(len(q), len(rows), dim, wide.itemsize, on_host=True, copied=copied, tile=tile)
    blocks = plan.rows // BLOCK
    found = Found(len(q), k, wide)
    scratch = np.empty((min(plan.queries, len(q)), plan.rows), wide)
    with np.errstate(all="ignore"):
        for start in range(0, len(rows) if len(q) else 0, plan.rows):
            x = rows[start : start + plan.rows, :dim].astype(wide, copy=False)
            known = None if lengths is None else lengths[start : start + plan.rows].astype(wide, copy=False)
            if metric == "cosine" and not normalized and known is None:
                x = unit_rows(x)
            for first in range(0, len(q), plan.queries):
                part = q[first : first + plan.queries]
                scores = scratch[: len(part)]
                if len(x) < plan.rows:
                    scores[:, len(x) :] = -np.inf
                np.matmul(part, x.T, out=scores[:, : len(x)])
                own = None if offsets is None else offsets[first : first + plan.queries]
                complete(scores[:, : len(x)], x, known, own, metric, normalized)
                found.add(first, scores.reshape(len(part), BLOCK, blocks), start)
            _let_go(rows)
    return _placed(*found.best(), lead, k)


def rerank(
    queries: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray | None,
    candidates: np.ndarray,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> SearchResult:
    lead, wide = queries.shape[:-1], wide_dtype(queries, rows)
    count, width = math.prod(lead), candidates.shape[-1]
    q = queries.reshape(count, queries.shape[-1])[:, :dim].astype(wide)
    q = _prepared(q, metric)[0] if metric == "cosine" else q
    # In order of the index, so that a stable sort leaves the lowest of equals first.
    given = np.sort(candidates.reshape(count, width).astype(np.int64), -1)
    given[:, 1:][given[:, 1:] == given[:, :-1]] = -1
    given[given >= len(rows)] = -1
    scores = np.full((count, width), -np.inf, wide)
    with np.errstate(all="ignore"):
        for i in range(count if len(rows) else 0):  # a query's rows fit in a cache
            x = rows[np.maximum(given[i], 0), :dim].astype(wide, copy=False)
            _let_go(rows)
            if metric == "l2":
                scores[i] = -np.einsum("nd,nd->n", x - q[i], x - q[i])
                continue
            known = None if lengths is None else lengths[np.maximum(given[i], 0)].astype(wide, copy=False)
            if metric == "cosine" and not normalized and known is None:
                x = unit_rows(x)
            np.matmul(x, q[i], out=scores[i])
            if metric == "cosine" and not normalized and known is not None:
                over_norms(scores[i], known)
    scores[(given < 0) | np.isnan(scores)] = -np.inf
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    scores, given = np.take_along_axis(scores, order, -1), np.take_along_axis(given, order, -1)
    return _placed(scores, np.where(scores == -np.inf, -1, given), lead, k)


def prepare_database(rows: np.ndarray, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    wide = wide_dtype(rows, rows)
    narrow = [m for m in dims if m < rows.shape[-1]]
    kept = wide if metric == "cosine" else rows.dtype
    prefixes = tuple(np.empty((len(rows), m), kept) for m in narrow)
    lengths = [np.empty(len(rows), wide) for _ in range({"cosine": 1, "dot": 0, "l2": len(narrow) + 1}[metric])]
    with np.errstate(all="ignore"):
        for part in track(tiles(rows, wide)):
            x = rows[part].astype(wide, copy=False)
            for m, prefix in zip(narrow, prefixes, strict=True):
                prefix[part] = unit_rows(x[:, :m]) if metric == "cosine" else rows[part, :m]
            if metric == "cosine":
                lengths[0][part] = row_norms(x)[0]
            for m, squares in zip([*narrow, rows.shape[-1]] if metric == "l2" else [], lengths, strict=False):
                squares[part] = np.einsum("nd,nd->n", x[:, :m], x[:, :m])
            _let_go(rows)
    norms = lengths[0] if metric == "cosine" else None
    return Database(rows, prefixes, norms, tuple(lengths) if metric == "l2" else None)


def tiles(rows: np.ndarray, wide: np.dtype) -> list[slice]:
    """Parts of the rows that are held a second time."""
    step = max(1, ROW_BYTES // max(1, rows.shape[-1] * wide.itemsize))
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def _placed(scores: np.ndarray, indices: np.ndarray, lead: tuple[int, ...], k: int) -> SearchResult:
    """A result of ``k`` places in the shape of the queries."""
    missing = [(0, 0), (0, k - scores.shape[1])]
    scores = np.pad(scores, missing, constant_values=-np.inf)
    indices = np.pad(indices, missing, constant_values=-1)
    return SearchResult(scores.reshape(*lead, k), indices.reshape(*lead, k))


def _prepared(q: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Queries as they are multiplied, and the squares of their norms under ``"l2"``."""
    with np.errstate(all="ignore"):
        if metric == "cosine":
            return unit_rows(q), None
        return (2 * q, np.einsum("nd,nd->n", q, q)) if metric == "l2" else (q, None)


def _let_go(rows: np.ndarray) -> None:
    """Pages of a mapped file that have been read are the file's again, and no memory of the process."""
    mapped = getattr(rows, "_mmap", None)
    # A private copy would lose what somebody wrote to it.
    if mapped is not None and hasattr(mapped, "madvise") and getattr(rows, "mode", "c") != "c":
        import mmap

        mapped.madvise(mmap.MADV_DONTNEED)
