"""Exact search by tiles of scores and a running threshold; candidates, scored again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrl.pages import AROUND, read_through
from mrl.retrieval.planning import BLOCK, ROW_BYTES, plan_gather, plan_tile
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import has_memory, is_batched, no_autocast, wide_dtype
from .best import Found, top_of
from .losses import truncate
from .scores import over_norms, row_norms


def search(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> SearchResult:
    _refuse_batches(queries, rows)
    run = _opaque_search if torch.compiler.is_compiling() else _search
    q = queries.detach()[..., :dim].reshape(-1, dim)
    known = None if lengths is None else lengths.detach()
    fields = run(q, rows.detach(), known, k, dim, metric, normalized, tile)
    return SearchResult(*(field.reshape(*queries.shape[:-1], k) for field in fields))


def rerank(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    candidates: Tensor,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> SearchResult:
    _refuse_batches(queries, rows, candidates)
    run = _opaque_rerank if torch.compiler.is_compiling() else _rerank
    q = queries.detach()[..., :dim].reshape(-1, dim)
    known = None if lengths is None else lengths.detach()
    given = candidates.reshape(q.shape[0], candidates.shape[-1])
    fields = run(q, rows.detach(), known, given, k, dim, metric, normalized)
    return SearchResult(*(field.reshape(*queries.shape[:-1], k) for field in fields))


def prepare_database(rows: Tensor, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    wide, count, width = wide_dtype(rows), rows.shape[0], rows.shape[1]
    narrow = [m for m in dims if m < width]
    kept = wide if metric == "cosine" else rows.dtype
    prefixes = tuple(rows.new_empty((count, m), dtype=kept) for m in narrow)
    columns = {"cosine": [width], "dot": [], "l2": [*narrow, width]}[metric]
    lengths = tuple(rows.new_empty(count, dtype=wide) for _ in columns)
    with torch.no_grad():
        step = max(1, ROW_BYTES // (width * wide.itemsize))
        source, give_back = _readable(rows)
        for start in track([*range(0, count, step)]):
            part = slice(start, start + step)
            x = source[part].to(wide)
            for m, prefix in zip(narrow, prefixes, strict=True):
                prefix[part] = truncate(x, m, normalize=True) if metric == "cosine" else source[part, :m]
            for m, length in zip(columns, lengths, strict=True):
                length[part] = row_norms(x) if metric == "cosine" else x[:, :m].square().sum(-1)
            give_back(x.shape[0] * _row_bytes(rows))
    return Database(rows, prefixes, lengths[0] if metric == "cosine" else None, lengths if metric == "l2" else None)


def _search(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> tuple[Tensor, Tensor]:
    wide = wide_dtype(queries, rows)
    with torch.no_grad(), no_autocast(queries.device):
        q = truncate(queries.to(wide), dim, normalize=True) if metric == "cosine" else queries.to(wide)
        offsets = q.square().sum(-1, keepdim=True) if metric == "l2" else None
        q = 2 * q if metric == "l2" else q
        unknown = metric == "cosine" and not normalized and lengths is None
        on_host, copied = queries.device.type == "cpu", unknown or rows.dtype != wide
        size = wide.itemsize
        plan = plan_tile(len(q), len(rows), dim, size, on_host=on_host, copied=copied, tile=tile)
        scratch = q.new_empty((min(plan.queries, len(q)), plan.rows))
        found = Found(q, k)
        rows, give_back = _readable(rows)
        for start in range(0, len(rows) if len(q) else 0, plan.rows):
            x = rows[start : start + plan.rows, :dim].to(wide)
            known = None if lengths is None else lengths[start : start + plan.rows].to(wide)
            x = truncate(x, dim, normalize=True) if unknown else x
            known = x.square().sum(-1) if metric == "l2" and known is None else known
            for first in range(0, len(q), plan.queries):
                scores = scratch[: min(plan.queries, len(q) - first)]
                scores[:, len(x) :] = -math.inf
                part = scores[:, : len(x)]
                torch.mm(q[first : first + plan.queries], x.mT, out=part)
                if offsets is not None:
                    part.sub_(known).sub_(offsets[first : first + plan.queries]).clamp_(max=0)
                elif metric == "cosine" and known is not None and not normalized:
                    over_norms(part, known)
                found.add(first, scores.view(len(scores), BLOCK, -1), start)
            give_back(len(x) * _row_bytes(rows))
        return found.best()


def _rerank(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    candidates: Tensor,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> tuple[Tensor, Tensor]:
    wide = wide_dtype(queries, rows)
    with torch.no_grad(), no_autocast(queries.device):
        q = truncate(queries.to(wide), dim, normalize=True) if metric == "cosine" else queries.to(wide)
        # In order of the index, so that a stable sort leaves the lowest of equals first.
        given = candidates.long().sort(-1).values
        again = torch.zeros_like(given, dtype=torch.bool)
        again[:, 1:] = given[:, 1:] == given[:, :-1]
        given = given.masked_fill(again | (given >= len(rows)), -1)
        scores = q.new_full(given.shape, -math.inf)
        # On a CPU products of one query with its own rows are several times as fast as a batch of them.
        step = 1 if queries.device.type == "cpu" else plan_gather(given.shape[1], dim, wide.itemsize, on_host=False)
        rows, give_back = _readable(rows)
        gathered = rows.new_empty(
            (min(step, len(q)) * given.shape[1], dim)
        )  # once: fresh memory is as slow as the gather
        for i in range(0, len(q) if len(rows) else 0, step):
            part, places = slice(i, i + step), given[i : i + step].clamp(min=0)
            x = torch.index_select(rows[:, :dim], 0, places.flatten(), out=gathered[: places.numel()]).to(wide)
            give_back(len(x) * max(AROUND, _row_bytes(rows)))
            if metric == "l2":
                x = x.reshape(*places.shape, dim) - q[part, None]
                scores[part] = -x.square().sum(-1)
                continue
            if metric == "cosine" and not normalized and lengths is None:
                x = truncate(x, dim, normalize=True)
            if step == 1:
                torch.mv(x, q[i], out=scores[i])
            else:
                scores[part] = torch.matmul(x.reshape(*places.shape, dim), q[part, :, None]).squeeze(-1)
            if metric == "cosine" and not normalized and lengths is not None:
                over_norms(scores[part], lengths[places].to(wide))
        scores = scores.masked_fill((given < 0) | scores.isnan(), -math.inf)
        return top_of(scores, given, k)


def _readable(rows: Tensor) -> tuple[Tensor, Callable[[int], None]]:
    """The rows, and what is told how many of their bytes have been read.

    Those of a mapped file are read through a mapping of our own, so that the process does not come to hold the file.
    """
    if not torch.compiler.is_compiling() and rows.device.type == "cpu" and has_memory(rows):
        storage = rows.untyped_storage()
        # What PyTorch has allocated itself lies in no file, and need not be looked for there in every search.
        found = None if storage.resizable() else read_through(storage.data_ptr(), storage.nbytes())
        if found is not None:
            raw = torch.frombuffer(found.memory, dtype=torch.uint8, offset=found.offset, count=storage.nbytes())
            again = rows.new_empty(0).set_(raw.untyped_storage(), rows.storage_offset(), rows.shape, rows.stride())
            return again, found.give_back
    return rows, lambda _: None


def _row_bytes(rows: Tensor) -> int:
    return abs(rows.stride(0)) * rows.dtype.itemsize


def _refuse_batches(*arrays: Tensor) -> None:
    if not torch.compiler.is_compiling() and any(is_batched(x) for x in arrays):
        raise RuntimeError(
            "search: how many rows pass is another number for every query, which torch.func.vmap cannot do; "
            "call it on all queries at once, of any leading shape (..., D)"
        )


# One node of a compiled graph: how many rows pass the threshold is not known before it runs.
_opaque_search = torch.library.custom_op("mrl::search", _search, mutates_args=())
_opaque_rerank = torch.library.custom_op("mrl::rerank", _rerank, mutates_args=())


def _empty(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=wide_dtype(queries, rows)), queries.new_empty(shape, dtype=torch.int64)


@_opaque_search.register_fake
def _(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> tuple[Tensor, Tensor]:
    return _empty(queries, rows, k)


@_opaque_rerank.register_fake
def _(
    queries: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    candidates: Tensor,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> tuple[Tensor, Tensor]:
    return _empty(queries, rows, k)
