"""The best of tiles of scores, with static shapes: blocks, by their maxima."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mrl.retrieval.planning import BLOCK, FINE

from .arrays import in_xla
from .scores import nowhere


def picked_places(score: Callable[..., tf.Tensor], q: tf.Tensor, count: tf.Tensor, k: int, size: int) -> tf.Tensor:
    """The places of all members of the best ``k`` blocks, in order: among them are those of the best ``k`` rows.

    Blocks are ordered by their maximum and then by their place: an element outside of the first ``k`` has as many
    better ones before it. Of many blocks the best lie, in the same way, in the best blocks of blocks.
    """
    together, whole = tf.shape(q)[0], count // size

    def largest(scores: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.reshape(scores, tf.stack([size // BLOCK, BLOCK, together])), 1)

    shape = [size // BLOCK, q.shape[0]]
    found = tf.TensorArray(q.dtype, whole + 1, element_shape=shape)
    zero = tf.constant(0, tf.int32)  # a kind of its own under NumPy's rules of promotion, unless stated
    _, found = tf.while_loop(
        lambda i, found: i < whole,
        lambda i, found: (i + 1, found.write(i, largest(_tile(score, i, count, size, 0)))),
        [zero, found],
        parallel_iterations=4,
    )
    found = found.write(whole, largest(_filled(score(whole * size, count - whole * size), size, 0)))
    fine = tf.reshape(found.stack(), tf.stack([(whole + 1) * (size // BLOCK), together]))

    def at_once() -> tf.Tensor:
        return _picked(tf.transpose(fine), k)

    def by_blocks() -> tf.Tensor:
        filled = _filled(fine, -(-tf.shape(fine)[0] // BLOCK) * BLOCK, 0)
        largest = tf.reduce_max(tf.reshape(filled, tf.stack([-1, BLOCK, together])), 1)
        blocks = _within(_picked(tf.transpose(largest), k))
        return tf.gather(blocks, _picked(tf.gather(tf.transpose(filled), blocks, batch_dims=1), k), batch_dims=1)

    return _within(by_blocks() if in_xla() else tf.cond(tf.shape(fine)[0] <= FINE * k, at_once, by_blocks))


def by_tiles(score: Callable[..., tf.Tensor], q: tf.Tensor, count: tf.Tensor, k: int, size: int) -> list[tf.Tensor]:
    """The best so far, and those of the next tile: its scores are there until its best blocks are taken."""
    together, whole = tf.shape(q)[0], count // size
    members = tf.range(BLOCK)

    def step(start: tf.Tensor, scores: tf.Tensor, best: list[tf.Tensor]) -> list[tf.Tensor]:
        scores = tf.reshape(scores, tf.stack([together, size // BLOCK, BLOCK]))
        blocks = _picked(tf.reduce_max(scores, -1), k)
        values = tf.reshape(tf.gather(scores, blocks, batch_dims=1), tf.stack([together, -1]))
        places = tf.reshape(start + blocks[:, :, None] * BLOCK + members, tf.shape(values))
        values, places = tf.concat([best[0], values], 1), tf.concat([best[1], tf.cast(places, tf.int64)], 1)
        return top_of(values, places, k)

    zero = tf.constant(0, tf.int32)
    _, *best = tf.while_loop(
        lambda i, *best: i < whole,
        lambda i, *best: (i + 1, *step(i * size, _tile(score, i, count, size, 1), list(best))),
        [zero, *nothing(q, k)],
        parallel_iterations=1,
    )
    return step(whole * size, _filled(score(whole * size, count - whole * size), size, 1), best)


def _tile(score: Callable[..., tf.Tensor], i: tf.Tensor, count: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """The scores of a whole tile; XLA wants one that fits where there is none too."""
    return _filled(score(i * size, tf.minimum(size, count)), size, axis) if in_xla() else score(i * size, size)


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


def top_of(scores: tf.Tensor, indices: tf.Tensor, k: int) -> list[tf.Tensor]:
    """The best ``k`` of columns of which the first of equals wins."""
    scores, order = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    indices = tf.gather(indices, order, batch_dims=1)
    indices = tf.where(tf.equal(scores, nowhere(scores)), tf.constant(-1, tf.int64), indices)
    missing = [[0, 0], [0, k - tf.shape(scores)[1]]]
    scores = tf.pad(scores, missing, constant_values=nowhere(scores))
    indices = tf.pad(indices, missing, constant_values=-1)
    return [tf.ensure_shape(scores, [None, k]), tf.ensure_shape(indices, [None, k])]


def nothing(q: tf.Tensor, k: int) -> list[tf.Tensor]:
    shape = tf.stack([tf.shape(q)[0], k])
    found = [tf.fill(shape, tf.constant(-math.inf, q.dtype)), tf.fill(shape, tf.constant(-1, tf.int64))]
    return [tf.ensure_shape(field, [q.shape[0], k]) for field in found]
