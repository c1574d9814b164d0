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
    if narrow != torch.float16:  # whose squares and their sums are in range
        largest = [torch.linalg.vector_norm(x[:, start:stop], torch.inf, dim=-1) for start, stop in blocks]
        power = _power(torch.stack(largest).to(wide))
        seen = x.device.type == "cpu" and has_memory(x)
        power = None if seen and bool((power == 1).all()) else power.unsqueeze(-1)
        factor = factor if power is None else factor * power.to(factor.dtype)
    norms = [torch.linalg.vector_norm(factor[:, start:stop], dim=-1, dtype=wide) for start, stop in blocks]
    norm = torch.stack(norms).square_().cumsum(0).sqrt_()
    tiny = norm <= (1e-12 if power is None else 1e-12 * power.squeeze(-1))
    return Side(factor, norm.reciprocal_().masked_fill_(tiny, 0), power)


def through_the_norm(dx: Tensor, side: Side, radial: Tensor, nesting: Nesting) -> Tensor:
    """Less what points along the prefixes, each level's in all of its columns."""
    if side.inverse is not None:
        along = (radial * side.inverse.square()).flip(0).cumsum(0).flip(0)
        for (start, stop), factor in zip(nesting.blocks, along.unbind(), strict=True):
            dx[:, start:stop] -= side.x[:, start:stop].to(dx.dtype) * factor.unsqueeze(-1)
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
