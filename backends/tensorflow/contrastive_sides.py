"""The embeddings of one side of a contrastive loss, and what makes unit vectors of their prefixes."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mrl.nesting import Nesting
from mrl.planning import MOST, NOTHING, ORDINARY

from .arrays import on_host
from .sweep import side_by_side


class Side(NamedTuple):
    """The embeddings of one side, and what makes unit vectors of their prefixes, where that is asked for."""

    x: tf.Tensor  # (N, D)
    inverse: tf.Tensor | None  # (N, G), 1 / norm of every prefix, or 0
    power: tf.Tensor | None  # (N, 1), of two, that ``x`` has been multiplied by


def side_of(x: tf.Tensor, nesting: Nesting, cosine: bool) -> Side:
    if not cosine:
        return Side(x, None, None)
    if on_host(x):
        # Ordinary rows, nearly always: powers of two would take as long as a level does. Other devices would wait.
        squares, most = _squares(x, nesting), 2.0 ** (2 * ORDINARY)
        fine = tf.reduce_all((squares[:, 0] > 1 / most) & (tf.reduce_sum(squares, 1) < most))
        found = tf.cond(fine, lambda: (x, squares, tf.ones_like(squares[:, :1])), lambda: _scaled(x, nesting))
        shapes = x.shape, squares.shape, [None, 1]
        x, squares, power = (tf.ensure_shape(y, shape) for y, shape in zip(found, shapes, strict=True))
    else:
        x, squares, power = _scaled(x, nesting)
    norm = tf.sqrt(tf.cumsum(squares, 1))
    tiny = norm <= 1e-12 * power
    return Side(x, tf.where(tiny, tf.zeros_like(norm), 1 / norm), power)


def through_the_norm(dx: tf.Tensor, side: Side, radial: tf.Tensor, nesting: Nesting) -> tf.Tensor:
    """Less what points along the prefixes, each level's in all of its columns."""
    if side.inverse is not None:
        along = tf.cumsum(radial * tf.square(side.inverse), 1, reverse=True)
        parts = [side.x[:, start:stop] * along[:, g, None] for g, (start, stop) in enumerate(nesting.blocks)]
        dx -= side_by_side(parts, dx.shape[1])
    return dx if side.power is None else dx * side.power


def _squares(x: tf.Tensor, nesting: Nesting) -> tf.Tensor:
    """Their sums over every block, ``(N, G)``."""
    return tf.stack([tf.reduce_sum(tf.square(x[:, start:stop]), 1) for start, stop in nesting.blocks], 1)


def _scaled(x: tf.Tensor, nesting: Nesting) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Rows multiplied by powers of two, the sums of squares of these, and the powers."""
    largest = [tf.reduce_max(tf.abs(x[:, start:stop]), 1) for start, stop in nesting.blocks]
    power = _power(tf.stack(largest, 1))[:, None]
    return x * power, _squares(x * power, nesting), power


def _power(largest: tf.Tensor) -> tf.Tensor:
    """By what power of two to multiply rows, so that the squares of their prefixes and of the whole are in range.

    ``largest`` is ``(N, G)``, the largest entries of every block. A prefix below ``2**-110`` of the whole row may be
    lost.
    """
    wider = 8 if largest.dtype == tf.float64 else 1
    found = [largest[:, 0]]
    for g in range(1, largest.shape[1]):
        found.append(tf.maximum(found[-1], largest[:, g]))
    whole = found[-1]
    above = tf.constant(2.0 ** (NOTHING * wider), largest.dtype)
    first = tf.reduce_min([tf.where(x > above, x, whole) for x in found], 0)
    low, high = _exponent(first), _exponent(whole)
    middle = tf.maximum((low + high) // 2, high - MOST * wider)
    ordinary = (low >= -ORDINARY * wider) & (high <= ORDINARY * wider)
    plain = ordinary | ~((whole > 0) & tf.math.is_finite(whole))
    return _power_of_two(tf.where(plain, tf.zeros_like(middle), -middle), largest.dtype)


def _exponent(x: tf.Tensor) -> tf.Tensor:
    """``e`` of a normal ``x`` in ``[2**e, 2**(e + 1))``, read off its bits."""
    if x.dtype == tf.float64:
        return tf.bitwise.right_shift(tf.bitcast(x, tf.int64), tf.constant(52, tf.int64)) - 1023
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def _power_of_two(exponent: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if dtype == tf.float64:
        return tf.bitcast(tf.bitwise.left_shift(exponent + 1023, tf.constant(52, tf.int64)), dtype)
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), dtype)
