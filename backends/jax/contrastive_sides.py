"""The embeddings of one side of a contrastive loss, and what makes unit vectors of their prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mrl.nesting import Nesting
from mrl.planning import MOST, NOTHING, ORDINARY

from .sweep import side_by_side


class Side(NamedTuple):
    """The embeddings of one side, and what makes unit vectors of their prefixes, where that is asked for."""

    x: Array  # (..., N, D), factors of products
    inverse: Array | None  # (..., N, G), 1 / norm of every prefix, or 0
    power: Array | None  # (..., N, 1), of two, that ``x`` has been multiplied by


def side_of(x: Array, nesting: Nesting, cosine: bool, on_host: bool, wide: np.dtype) -> Side:
    if not cosine:
        return Side(x, None, None)
    squares, power = _squares(x, nesting, wide), None
    if x.dtype != jnp.float16:  # whose squares and their sums are in range
        first, whole, most = squares[:, 0], squares.sum(1), 2.0 ** (2 * ORDINARY)
        x, squares, power = jax.lax.cond(
            # Ordinary rows, nearly always: powers of two would take as long as a level does. Other devices would wait.
            ((first > 1 / most) & (whole < most)).all() if on_host else False,
            lambda x, squares: (x, squares, jnp.full_like(squares[:, :1], 1)),
            lambda x, _: _scaled(x, nesting, wide),
            *(x, squares),
        )
    norm = jnp.sqrt(jnp.cumsum(squares, 1))
    tiny = norm <= (1e-12 if power is None else 1e-12 * power)
    return Side(x, jnp.where(tiny, 0, 1 / norm), power)


def through_the_norm(parts: Sequence[Array], side: Side, radial: Array, nesting: Nesting) -> Array:
    """The blocks of columns as one matrix, less what points along the prefixes, each level's in all of its columns."""
    width = side.x.shape[1]
    if side.inverse is None:
        return side_by_side(parts, width)
    along = jnp.cumsum((radial * jnp.square(side.inverse))[:, ::-1], 1)[:, ::-1]
    blocks, x = nesting.blocks, side.x.astype(along.dtype)
    less = [part - x[:, i:j] * along[:, g, None] for g, (part, (i, j)) in enumerate(zip(parts, blocks, strict=True))]
    dx = side_by_side(less, width)
    return dx if side.power is None else dx * side.power


def _squares(x: Array, nesting: Nesting, wide: np.dtype) -> Array:
    """Their sums over every block, ``(N, G)``."""
    return jnp.stack([jnp.square(x[:, start:stop].astype(wide)).sum(1) for start, stop in nesting.blocks], 1)


def _scaled(x: Array, nesting: Nesting, wide: np.dtype) -> tuple[Array, Array, Array]:
    """Rows multiplied by powers of two, the sums of squares of these, and the powers."""
    largest = jnp.stack([jnp.abs(x[:, start:stop]).max(1) for start, stop in nesting.blocks], 1)
    power = _power(largest.astype(wide))[:, None]
    x = x * power.astype(x.dtype)
    return x, _squares(x, nesting, wide), power


def _power(largest: Array) -> Array:
    """By what power of two to multiply rows, so that the squares of their prefixes and of the whole are in range.

    ``largest`` is ``(N, G)``, the largest entries of every block. A prefix below ``2**-110`` of the whole row may be
    lost.
    """
    wider = 8 if largest.dtype == jnp.float64 else 1
    so_far = jax.lax.cummax(largest, axis=1)
    whole = so_far[:, -1]
    first = jnp.where(so_far > 2.0 ** (NOTHING * wider), so_far, jnp.inf).min(1)
    low, high = (jnp.frexp(x)[1] for x in (jnp.minimum(first, whole), whole))
    middle = jnp.maximum((low + high) // 2, high - MOST * wider)
    ordinary = (low >= -ORDINARY * wider) & (high <= ORDINARY * wider)
    exponent = jnp.where(ordinary | ~((whole > 0) & (whole < jnp.inf)), 0, -middle)
    return jnp.ldexp(jnp.ones_like(whole), exponent)
