"""Exact search by the maxima of blocks, with static shapes; candidates, scored again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from mrl.retrieval.planning import MOST_QUERIES, PICK_BYTES, ROW_BYTES, UNKNOWN_ROWS, Passes, plan_gather, plan_passes
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import in_xla, on_host, wide_dtype
from .best import by_tiles, nothing, picked_places, top_of
from .scores import candidate_scores, nowhere, row_norms, row_squares, tile_scores, unit_rows

FEW_ROWS = 8192

UNKNOWN_CANDIDATES = 1024
"""Of a query whose number is not known yet."""


def search(
    queries: Any,
    rows: Any,
    lengths: Any,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
    tile: int | None,
) -> SearchResult:
    wide, lead = wide_dtype(queries, rows), tf.shape(queries)[:-1]
    q = tf.cast(tf.reshape(tf.stop_gradient(queries)[..., :dim], [-1, dim]), wide)
    count = MOST_QUERIES if q.shape[0] is None else q.shape[0]
    plan = plan_passes(count, rows.shape[0], dim, k, wide.size, on_host=on_host(queries), tile=tile)
    if dim < rows.shape[1] and (rows.shape[0] or UNKNOWN_ROWS) * dim * rows.dtype.size > PICK_BYTES:
        plan = plan._replace(again=None)  # which would gather whole rows, or copy so many of their columns
    rows, lengths = tf.stop_gradient(rows), None if lengths is None else tf.stop_gradient(lengths)
    # Many tiles are worth a graph, which starts its operations faster and several at a time.
    run = _trace_search if tf.executing_eagerly() and rows.shape[0] > FEW_ROWS else _search
    widths = (dim, rows.shape[1])
    found = run(q, rows, lengths, widths, k=k, metric=metric, normalized=normalized, plan=plan)
    return _shaped(found, queries, lead, k)


def rerank(
    queries: Any,
    rows: Any,
    lengths: Any,
    candidates: Any,
    *,
    k: int,
    dim: int,
    metric: str,
    normalized: bool,
) -> SearchResult:
    wide, lead = wide_dtype(queries, rows), tf.shape(queries)[:-1]
    q = tf.cast(tf.reshape(tf.stop_gradient(queries)[..., :dim], [-1, dim]), wide)
    given = tf.reshape(tf.cast(candidates, tf.int64), tf.stack([tf.shape(q)[0], tf.shape(candidates)[-1]]))
    rows, lengths = tf.stop_gradient(rows), None if lengths is None else tf.stop_gradient(lengths)
    widths = (dim, rows.shape[1])
    together = plan_gather(candidates.shape[-1] or UNKNOWN_CANDIDATES, rows.shape[1], wide.size, on_host=False)
    options: dict[str, Any] = {"k": k, "metric": metric, "normalized": normalized, "together": together}
    run = _trace_rerank if tf.executing_eagerly() and rows.shape[0] > FEW_ROWS else _rerank
    return _shaped(run(q, rows, lengths, given, widths, **options), queries, lead, k)


def prepare_database(rows: Any, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    rows, wide, width = tf.convert_to_tensor(rows), wide_dtype(rows), rows.shape[1]
    narrow = [m for m in dims if m < width]
    columns = {"cosine": [width], "dot": [], "l2": [*narrow, width]}[metric]
    prefixes: list[list[tf.Tensor]] = [[] for _ in narrow]
    lengths: list[list[tf.Tensor]] = [[] for _ in columns]
    count, step = rows.shape[0], max(1, ROW_BYTES // (width * wide.size))
    for start in track([0] if count is None else [*range(0, max(1, count), step)]):
        given = rows if count is None else rows[start : start + step]
        x = tf.cast(given, wide)
        for m, parts in zip(narrow, prefixes, strict=True):
            parts.append(unit_rows(x[:, :m]) if metric == "cosine" else given[:, :m])
        for m, parts in zip(columns, lengths, strict=True):
            parts.append(row_norms(x) if metric == "cosine" else row_squares(x[:, :m]))
    known = tuple(tf.concat(parts, 0) for parts in lengths)
    norms = known[0] if metric == "cosine" else None
    return Database(rows, tuple(tf.concat(parts, 0) for parts in prefixes), norms, known if metric == "l2" else None)


def _search(
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    widths: tuple[int, int],
    *,
    k: int,
    metric: str,
    normalized: bool,
    plan: Passes,
) -> list[tf.Tensor]:
    q, rows = _as_wide(q, rows, widths)
    options: dict[str, Any] = {"k": k, "metric": metric, "normalized": normalized, "plan": plan}
    return _of_some(lambda rows, lengths, count: _search_some(q, rows, lengths, count, **options), q, rows, lengths, k)


def _search_some(
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    count: tf.Tensor,
    *,
    k: int,
    metric: str,
    normalized: bool,
    plan: Passes,
) -> list[tf.Tensor]:
    offsets = row_squares(q)
    q = unit_rows(q) if metric == "cosine" else q
    narrow = rows if plan.again is None or rows.shape[1] == q.shape[1] else rows[:, : q.shape[1]]

    def few(q: tf.Tensor, offsets: tf.Tensor) -> list[tf.Tensor]:
        score = partial(tile_scores, q, offsets, narrow, lengths, metric=metric, normalized=normalized)
        if plan.again is None:
            return by_tiles(partial(score, rows_first=False), q, count, k, plan.rows)
        places = picked_places(score, q, count, k, plan.rows)
        return _in_parts(again, [q, offsets, places], plan.again, k)

    def again(q: tf.Tensor, offsets: tf.Tensor, places: tf.Tensor) -> list[tf.Tensor]:
        held = tf.maximum(tf.minimum(places, count - 1), 0)
        scores = candidate_scores(q, narrow, lengths, held, metric=metric, normalized=normalized, expanded=offsets)
        return top_of(tf.where(places < count, scores, nowhere(scores)), tf.cast(places, tf.int64), k)

    return _in_parts(few, [q, offsets], plan.queries, k)


def _rerank(
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    given: tf.Tensor,
    widths: tuple[int, int],
    *,
    k: int,
    metric: str,
    normalized: bool,
    together: int,
) -> list[tf.Tensor]:
    q, rows = _as_wide(q, rows, widths)
    options: dict[str, Any] = {"k": k, "metric": metric, "normalized": normalized, "together": together}
    return _of_some(
        lambda rows, lengths, count: _rerank_some(q, rows, lengths, count, given, **options), q, rows, lengths, k
    )


def _rerank_some(
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    count: tf.Tensor,
    given: tf.Tensor,
    *,
    k: int,
    metric: str,
    normalized: bool,
    together: int,
) -> list[tf.Tensor]:
    q = unit_rows(q) if metric == "cosine" else q
    # In order of the index, because the first of equals wins.
    given = tf.sort(given, -1)
    again = tf.pad(tf.equal(given[:, 1:], given[:, :-1]), [[0, 0], [1, 0]])
    given = tf.where(again | (given >= tf.cast(count, tf.int64)), tf.constant(-1, tf.int64), given)

    def few(q: tf.Tensor, given: tf.Tensor) -> list[tf.Tensor]:
        places = tf.maximum(given, 0)
        scores = candidate_scores(q, rows, lengths, places, metric=metric, normalized=normalized, expanded=None)
        return top_of(tf.where(given < 0, nowhere(scores), scores), given, k)

    return _in_parts(few, [q, given], together, k)


def _of_some(
    function: Callable[[tf.Tensor, Any, tf.Tensor], list[tf.Tensor]],
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    k: int,
) -> list[tf.Tensor]:
    """``function`` of rows, of which there is one at least, and how many there are; nothing of none."""
    count = tf.shape(rows)[0]
    if rows.shape[0] is None and in_xla():  # which compiles both sides, and no gather from no rows
        one = tf.cast(tf.equal(count, 0), tf.int32)
        lengths = None if lengths is None else tf.pad(lengths, [[0, one]])
        return function(tf.pad(rows, [[0, one], [0, 0]]), lengths, count)
    if rows.shape[0] is None:
        return tf.cond(count > 0, lambda: function(rows, lengths, count), lambda: nothing(q, k))
    return function(rows, lengths, count) if rows.shape[0] else nothing(q, k)


def _as_wide(q: tf.Tensor, rows: tf.Tensor, widths: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """What a graph for any number of rows forgets of their shapes."""
    return tf.ensure_shape(q, [None, widths[0]]), tf.ensure_shape(rows, [None, widths[1]])


_trace_search = tf.function(_search, autograph=False, reduce_retracing=True)
_trace_rerank = tf.function(_rerank, autograph=False, reduce_retracing=True)


def _in_parts(
    function: Callable[..., list[tf.Tensor]], arrays: list[tf.Tensor], together: int, k: int
) -> list[tf.Tensor]:
    """``function`` of so many queries at a time, evened out."""
    known = arrays[0].shape[0]
    if known is not None and known <= together:
        return function(*arrays)
    count = tf.shape(arrays[0])[0]
    parts = tf.maximum(1, -(-count // together))
    size = -(-count // parts)
    cut = []
    for x in arrays:
        padded = tf.pad(x, [[0, parts * size - count], *[[0, 0]] * (x.shape.rank - 1)])
        cut.append(tf.reshape(padded, tf.concat([tf.stack([parts, size]), tf.shape(x)[1:]], 0)))
        cut[-1].set_shape([None, None, *x.shape[1:]])
    kinds = [arrays[0].dtype, tf.int64]
    found = [tf.TensorArray(kind, parts, element_shape=[None, k]) for kind in kinds]

    def step(i: tf.Tensor, *found: tf.TensorArray) -> tuple[Any, ...]:
        fields = function(*(x[i] for x in cut))
        return i + 1, *(array.write(i, field) for array, field in zip(found, fields, strict=True))

    zero = tf.constant(0, tf.int32)
    _, *found = tf.while_loop(lambda i, *_: i < parts, step, [zero, *found], parallel_iterations=1)
    return [tf.reshape(array.stack(), tf.stack([parts * size, k]))[:count] for array in found]


def _shaped(found: list[tf.Tensor], queries: Any, lead: tf.Tensor, k: int) -> SearchResult:
    fields = [tf.reshape(field, tf.concat([lead, [k]], 0)) for field in found]
    return SearchResult(*(tf.ensure_shape(field, [*queries.shape[:-1], k]) for field in fields))
