"""Exact search by the maxima of blocks, with static shapes; candidates, scored again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from mrl.retrieval.planning import BLOCK, MOST_QUERIES, ROW_BYTES, Tile, plan_gather, plan_passes
from mrl.retrieval.prepared import Database, SearchResult

from .arrays import in_xla, on_host, wide_dtype
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
    plan, picks = plan_passes(count, rows.shape[0], dim, k, wide.size, on_host=on_host(queries), tile=tile)
    rows, lengths = tf.stop_gradient(rows), None if lengths is None else tf.stop_gradient(lengths)
    # Many tiles are worth a graph, which starts its operations faster and several at a time.
    run = _trace_search if tf.executing_eagerly() and rows.shape[0] > FEW_ROWS else _search
    widths = (dim, rows.shape[1])
    found = run(q, rows, lengths, widths, k=k, metric=metric, normalized=normalized, plan=plan, picks=picks)
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
    return _shaped(_rerank(q, rows, lengths, given, widths, **options), queries, lead, k)


def prepare_database(rows: Any, *, dims: tuple[int, ...], metric: str, track: Any) -> Database:
    rows, wide, width = tf.convert_to_tensor(rows), wide_dtype(rows), rows.shape[1]
    narrow = [m for m in dims if m < width]
    prefixes, columns = [], {"cosine": [width], "dot": [], "l2": [*narrow, width]}[metric]
    lengths = []
    for m in track(narrow):
        x = rows[:, :m]
        prefixes.append(unit_rows(tf.cast(x, wide)) if metric == "cosine" else tf.identity(x))
    step = max(1, ROW_BYTES // (width * wide.size))
    for m in columns:
        starts = [0] if rows.shape[0] is None else range(0, max(1, rows.shape[0]), step)
        parts = [rows[i : None if rows.shape[0] is None else i + step, :m] for i in starts]
        lengths.append(
            tf.concat([(row_norms if metric == "cosine" else row_squares)(tf.cast(x, wide)) for x in parts], 0)
        )
    norms = lengths[0] if metric == "cosine" else None
    return Database(rows, tuple(prefixes), norms, tuple(lengths) if metric == "l2" else None)


def _search(
    q: tf.Tensor,
    rows: tf.Tensor,
    lengths: Any,
    widths: tuple[int, int],
    *,
    k: int,
    metric: str,
    normalized: bool,
    plan: Tile,
    picks: bool,
) -> list[tf.Tensor]:
    q, rows = _as_wide(q, rows, widths)
    options: dict[str, Any] = {"k": k, "metric": metric, "normalized": normalized, "plan": plan, "picks": picks}
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
    plan: Tile,
    picks: bool,
) -> list[tf.Tensor]:
    offsets = row_squares(q)
    q = unit_rows(q) if metric == "cosine" else q
    narrow = rows[:, : q.shape[1]] if picks and rows.shape[1] != q.shape[1] else rows

    def few(q: tf.Tensor, offsets: tf.Tensor) -> list[tf.Tensor]:
        score = partial(tile_scores, q, offsets, narrow, lengths, metric=metric, normalized=normalized)
        if not picks:
            return _by_tiles(score, q, count, k, plan.rows)
        again = partial(candidate_scores, q, narrow, lengths, metric=metric, normalized=normalized, expanded=offsets)
        return _by_picks(score, again, q, count, k, plan.rows)

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
        return _best(tf.where(given < 0, nowhere(scores), scores), given, k)

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
        return tf.cond(count > 0, lambda: function(rows, lengths, count), lambda: _nothing(q, k))
    return function(rows, lengths, count) if rows.shape[0] else _nothing(q, k)


def _as_wide(q: tf.Tensor, rows: tf.Tensor, widths: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """What a graph for any number of rows forgets of their shapes."""
    return tf.ensure_shape(q, [None, widths[0]]), tf.ensure_shape(rows, [None, widths[1]])


_trace_search = tf.function(_search, autograph=False, reduce_retracing=True)


def _by_picks(
    score: Callable[..., tf.Tensor],
    again: Callable[[tf.Tensor], tf.Tensor],
    q: tf.Tensor,
    count: tf.Tensor,
    k: int,
    size: int,
) -> list[tf.Tensor]:
    """The maxima of blocks, and of blocks of blocks: the best ``k`` lie in the best ``k`` of either.

    Blocks are ordered by their maximum and then by their place: an element outside of the first ``k`` has as many
    better ones before it. Those picked are put in order of their place again, so that the first of equals wins.
    """
    together, whole = tf.shape(q)[0], count // size

    def largest(scores: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.reshape(scores, tf.stack([size // BLOCK, BLOCK, together])), 1)

    shape = [size // BLOCK, q.shape[0]]
    found = tf.TensorArray(q.dtype, whole + 1, element_shape=shape)
    zero = tf.constant(0, tf.int32)  # a kind of its own under NumPy's rules of promotion, unless stated
    _, found = tf.while_loop(
        lambda i, found: i < whole,
        lambda i, found: (i + 1, found.write(i, largest(_tile(score, i, count, size)))),
        [zero, found],
        parallel_iterations=4,
    )
    found = found.write(whole, largest(_filled(score(whole * size, count - whole * size), size, 0)))
    fine = tf.reshape(found.stack(), tf.stack([(whole + 1) * (size // BLOCK), together]))
    fine = _filled(fine, -(-tf.shape(fine)[0] // BLOCK) * BLOCK, 0)
    coarse = tf.reduce_max(tf.reshape(fine, tf.stack([-1, BLOCK, together])), 1)
    blocks = _within(_picked(tf.transpose(coarse), k))
    lanes = tf.broadcast_to(tf.range(together)[:, None], tf.shape(blocks))
    blocks = tf.gather(blocks, _picked(tf.gather_nd(fine, tf.stack([blocks, lanes], -1)), k), batch_dims=1)
    places = _within(blocks)
    scores = again(tf.maximum(tf.minimum(places, count - 1), 0))
    return _best(tf.where(places < count, scores, nowhere(scores)), tf.cast(places, tf.int64), k)


def _by_tiles(score: Callable[..., tf.Tensor], q: tf.Tensor, count: tf.Tensor, k: int, size: int) -> list[tf.Tensor]:
    """The best so far, and those of the next tile: its scores are there until its best blocks are taken."""
    together, whole = tf.shape(q)[0], count // size
    members = tf.range(BLOCK)

    def step(start: tf.Tensor, scores: tf.Tensor, best: list[tf.Tensor]) -> list[tf.Tensor]:
        scores = tf.reshape(tf.transpose(scores), tf.stack([together, size // BLOCK, BLOCK]))
        blocks = _picked(tf.reduce_max(scores, -1), k)
        values = tf.reshape(tf.gather(scores, blocks, batch_dims=1), tf.stack([together, -1]))
        places = tf.reshape(start + blocks[:, :, None] * BLOCK + members, tf.shape(values))
        values, places = tf.concat([best[0], values], 1), tf.concat([best[1], tf.cast(places, tf.int64)], 1)
        return _best(values, places, k)

    zero = tf.constant(0, tf.int32)
    _, *best = tf.while_loop(
        lambda i, *best: i < whole,
        lambda i, *best: (i + 1, *step(i * size, _tile(score, i, count, size), list(best))),
        [zero, *_nothing(q, k)],
        parallel_iterations=1,
    )
    return step(whole * size, _filled(score(whole * size, count - whole * size), size, 0), best)


def _tile(score: Callable[..., tf.Tensor], i: tf.Tensor, count: tf.Tensor, size: int) -> tf.Tensor:
    """The scores of a whole tile; XLA wants one that fits where there is none too."""
    return _filled(score(i * size, tf.minimum(size, count)), size, 0) if in_xla() else score(i * size, size)


def _picked(values: tf.Tensor, k: int) -> tf.Tensor:
    return tf.sort(tf.math.top_k(values, tf.minimum(k, tf.shape(values)[1])).indices, -1)


def _within(blocks: tf.Tensor) -> tf.Tensor:
    """The places of all members of blocks, in order."""
    places = blocks[:, :, None] * BLOCK + tf.range(BLOCK)
    return tf.reshape(places, tf.stack([tf.shape(blocks)[0], tf.shape(blocks)[1] * BLOCK]))


def _filled(scores: tf.Tensor, size: Any, axis: int) -> tf.Tensor:
    """With minus infinity up to ``size``."""
    missing = [[0, 0], [0, 0]]
    missing[axis] = [0, size - tf.shape(scores)[axis]]
    return tf.pad(scores, missing, constant_values=nowhere(scores))


def _best(scores: tf.Tensor, indices: tf.Tensor, k: int) -> list[tf.Tensor]:
    """The best ``k`` of columns of which the first of equals wins."""
    scores, order = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    indices = tf.gather(indices, order, batch_dims=1)
    indices = tf.where(tf.equal(scores, nowhere(scores)), tf.constant(-1, tf.int64), indices)
    missing = [[0, 0], [0, k - tf.shape(scores)[1]]]
    scores = tf.pad(scores, missing, constant_values=nowhere(scores))
    indices = tf.pad(indices, missing, constant_values=-1)
    return [tf.ensure_shape(scores, [None, k]), tf.ensure_shape(indices, [None, k])]


def _nothing(q: tf.Tensor, k: int) -> list[tf.Tensor]:
    shape = tf.stack([tf.shape(q)[0], k])
    found = [tf.fill(shape, tf.constant(-math.inf, q.dtype)), tf.fill(shape, tf.constant(-1, tf.int64))]
    return [tf.ensure_shape(field, [q.shape[0], k]) for field in found]


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
