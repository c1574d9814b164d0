"""The embeddings of one side of a contrastive loss, and what makes unit vectors of their prefixes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrl.nesting import Nesting
from mrl.planning import MOST, NOTHING, ORDINARY

from .arrays import has_memory, multiplies


class Side(NamedTuple):
    """The embeddings of one side, and what makes unit vectors of their prefixes, where that is asked for."""

    x: Tensor  # (N, D), factors of products
    inverse: Tensor | None  # (G, N), 1 / norm of every prefix, or 0
    power: Tensor | None  # (N, 1), of two, that ``x`` has been multiplied by


def side_of(x: Tensor, nesting: Nesting, cosine: bool, narrow: torch.dtype, wide: torch.dtype) -> Side:
    """``narrow`` is what factors are rounded to before they are multiplied."""
    x = x.to(narrow)
    factor = x if multiplies(narrow, x.device) else x.to(wide)
    if not cosine:
        return Side(factor, None, None)
    blocks, power = nesting.blocks, None
    norm = _norms(factor, nesting, wide)
    if narrow != torch.float16 and not _ordinary(norm):  # of halves the squares and their sums are in range
        largest = [x[:, start:stop].abs().amax(-1) for start, stop in blocks]
        power = _power(torch.stack(largest).to(wide)).unsqueeze(-1)
        factor = factor * power.to(factor.dtype)
        norm = _norms(factor, nesting, wide)
    tiny = norm <= (1e-12 if power is None else 1e-12 * power.squeeze(-1))
    return Side(factor, norm.reciprocal_().masked_fill_(tiny, 0), power)


def _norms(x: Tensor, nesting: Nesting, wide: torch.dtype) -> Tensor:
    """Those of every prefix, ``(G, N)``."""
    blocks = [torch.linalg.vector_norm(x[:, start:stop], dim=-1, dtype=wide) for start, stop in nesting.blocks]
    return torch.stack(blocks).square_().cumsum(0).sqrt_()


def _ordinary(norm: Tensor) -> bool:
    """Whether all rows are seen to be: powers of two take as long as a level does. Other devices would wait."""
    seen = norm.device.type == "cpu" and has_memory(norm)
    return seen and bool((norm[0] > 2.0**-ORDINARY).all() and (norm[-1] < 2.0**ORDINARY).all())


def through_the_norm(dx: Tensor, side: Side, radial: Tensor, nesting: Nesting) -> Tensor:
    """Less what points along the prefixes, each level's in all of its columns."""
    if side.inverse is not None:
        along = (radial * side.inverse.square()).flip(0).cumsum(0).flip(0)
        for (start, stop), factor in zip(nesting.blocks, along.unbind(), strict=True):
            dx[:, start:stop].addcmul_(factor.unsqueeze(-1), side.x[:, start:stop].to(dx.dtype), value=-1)
    return dx if side.power is None else dx.mul_(side.power)


def _power(largest: Tensor) -> Tensor:
    """By what power of two to multiply rows, so that the squares of their prefixes and of the whole are in range.

    ``largest`` is ``(G, N)``, the largest entries of every block. A prefix below ``2**-110`` of the whole row
    may be lost.
    """
    wider = 8 if largest.dtype == torch.float64 else 1
    so_far = largest.cummax(0).values
    first = so_far.masked_fill(so_far <= 2.0 ** (NOTHING * wider), torch.inf).amin(0)
    low, high = (torch.frexp(x).exponent for x in (torch.minimum(first, so_far[-1]), so_far[-1]))
    middle = torch.maximum((low + high) // 2, high - MOST * wider)
    ordinary = (low >= -ORDINARY * wider) & (high <= ORDINARY * wider)
    return torch.ldexp(torch.ones_like(first), torch.where(ordinary | (so_far[-1] == 0), 0, -middle))
