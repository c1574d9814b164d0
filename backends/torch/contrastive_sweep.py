"""The loop over chunks of anchors, the products and the element-wise work of the fused contrastive loss."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mrl.nesting import Nesting
from mrl.planning import MOST, NOTHING, ORDINARY, plan_chunk_rows

from .arrays import has_memory, multiplies
from .sweep import add_product, put_product

TILE_BYTES = 1 << 20
"""Similarities that one pass of element-wise work takes at a time: with two arrays beside them, a CPU core's cache."""


@dataclass(frozen=True)
class Plan:
    """What is fixed before any value is seen."""

    nesting: Nesting
    cosine: bool
    symmetric: bool
    first: int  # the candidate that is the first anchor's own
    narrow: torch.dtype  # of factors: what they are rounded to before they are multiplied
    summed: bool  # the loss is a scalar: its gradient is known while the losses are computed
    chunk_rows: int | None
    needs: tuple[bool, bool, bool]  # which of anchors, candidates and temperatures need a gradient


class Side(NamedTuple):
    """The embeddings of one side, and what makes unit vectors of their prefixes, where that is asked for."""

    x: Tensor  # (N, D), factors of products
    inverse: Tensor | None  # (G, N), 1 / norm of every prefix, or 0
    power: Tensor | None  # (N, 1), of two, that ``x`` has been multiplied by


def sweep(
    a: Tensor, c: Tensor, temperature: Tensor, exclude: Tensor | None, rows: Tensor, plan: Plan
) -> tuple[Tensor, list[Tensor | None]]:
    """``rows[i] * loss_g[i]`` as ``(G, B)``, then the gradients that are needed, all in the dtype of ``rows``."""
    if exclude is not None:  # an anchor without its own positive has no loss
        own = exclude[:, plan.first : plan.first + len(a)].diagonal()
        rows = rows.masked_fill(own, torch.nan)
    work = _Sweep(_side(a, plan, rows.dtype), _side(c, plan, rows.dtype), temperature, exclude, rows, plan)
    if plan.symmetric:
        work.log_sum_exps()
    for chunk in work.chunks:
        work.one(chunk)
    return work.losses, work.gradients()


class _Sweep:
    def __init__(self, a: Side, c: Side, temperature: Tensor, exclude: Tensor | None, rows: Tensor, plan: Plan) -> None:
        self.a, self.c, self.temperature, self.exclude, self.rows, self.plan = a, c, temperature, exclude, rows, plan
        levels, count, candidates = len(plan.nesting), len(a.x), len(c.x)
        inverse = (1 / temperature).unsqueeze(-1)
        self.right = inverse.expand(levels, candidates) if c.inverse is None else c.inverse * inverse
        size = plan_chunk_rows(
            levels,
            count,
            max(1, candidates),
            rows.element_size(),
            on_host=rows.device.type == "cpu",
            chunk_rows=plan.chunk_rows,
        )
        self.chunks = [slice(start, min(count, start + size)) for start in range(0, count, size)]
        self.places = rows.new_empty(levels, min(size, count), candidates)
        self.tile = size
        if rows.device.type == "cpu":
            self.tile = max(1, min(size, TILE_BYTES // (max(1, candidates) * rows.element_size())))
        self.scratch = rows.new_empty(2, min(self.tile, count), candidates)
        self.losses = rows.new_empty(levels, count)
        # Of every level, the product of a prefix with its gradient, both as of unit vectors. Temperatures need it too.
        self.radial_a = rows.new_zeros(levels, count)
        self.radial_c = rows.new_zeros(levels, candidates)
        self.da, self.dc = (
            rows.new_zeros(side.x.shape) if needed else None for side, needed in zip((a, c), plan.needs, strict=False)
        )
        self.sums: tuple[Tensor, Tensor] | None = None

    def log_sum_exps(self) -> None:
        """Those of every row and, over all chunks, of every column, which both directions need before a gradient."""
        count = len(self.rows)
        of_rows, mass = torch.empty_like(self.losses), torch.zeros_like(self.losses)
        largest = torch.full_like(self.losses, -torch.inf)
        for chunk in self.chunks:
            products = self._products(chunk)
            for (g, product), tile in itertools.product(enumerate(products), self._tiles(chunk)):
                _, s = self._similarities(g, product[tile.start - chunk.start : tile.stop - chunk.start], tile)
                of_rows[g, tile] = s.logsumexp(-1)
                columns = s[:, :count]
                above = torch.maximum(largest[g], columns.amax(0))
                known = above.masked_fill(above.isneginf(), 0)
                mass[g] = mass[g] * (largest[g] - known).exp() + columns.sub_(known).exp_().sum(0)
                largest[g] = above
        self.sums = of_rows, largest + mass.log()

    def one(self, chunk: slice) -> None:
        """The losses of a chunk of anchors, and its part of the gradients: the largest level first."""
        # Of the only chunk the products are still there.
        products = self._products(chunk) if self.sums is None or len(self.chunks) > 1 else self.places.unbind()
        above: Tensor | None = None
        for g in reversed(range(len(products))):
            for tile in self._tiles(chunk):
                part = slice(tile.start - chunk.start, tile.stop - chunk.start)
                self._level(g, products[g][part], None if above is None else above[part], tile)
            above = products[g]
            if any(self.plan.needs):
                self._add_products(g, above, chunk)

    def _level(self, g: int, product: Tensor, above: Tensor | None, tile: slice) -> None:
        """Losses; and the gradient for a level's product, that of the levels ``above`` added, in its place."""
        rows, weight = self.rows[tile], self.plan.nesting.weights[g]
        x, s = self._similarities(g, product, tile)
        own = torch.arange(tile.start, tile.stop, device=rows.device).add_(self.plan.first).unsqueeze(-1)
        matching = s.gather(-1, own).squeeze(-1)
        inverse = None if self.a.inverse is None else self.a.inverse[g, tile]
        scale = weight * rows if inverse is None else weight * rows * inverse
        if self.sums is None:
            largest = s.amax(-1)
            ds = torch.softmax(s, -1, out=s)
            # The largest probability is exp(largest - lse): no further pass is needed for lse, and its logarithm comes
            # last, because beside a large similarity it would be rounded.
            self.losses[g, tile] = rows * (largest - matching - ds.amax(-1).log_())
            ds.mul_(scale.unsqueeze(-1))
        else:
            of_rows, of_columns = self.sums[0][g, tile], self.sums[1][g]
            both = (of_rows - matching) + (of_columns[tile] - matching)
            self.losses[g, tile] = rows * both / 2
            columns = (s[:, : len(of_columns)] - of_columns).exp_().mul_(weight / 2 * self.rows)
            ds = s.sub_(of_rows.unsqueeze(-1)).exp_().mul_(weight / 2 * rows.unsqueeze(-1))
            ds[:, : len(of_columns)] += columns
            if inverse is not None:
                ds.mul_(inverse.unsqueeze(-1))
        if not any(self.plan.needs):
            return
        ds.scatter_add_(-1, own, -scale.unsqueeze(-1))
        if self.plan.cosine or self.plan.needs[2]:
            x.mul_(ds)
            self.radial_a[g, tile] = x.sum(-1)
            if self.dc is not None and self.plan.cosine:
                self.radial_c[g] += x.sum(0)
        if above is None:
            torch.mul(ds, self.right[g], out=product)
        else:
            torch.add(above, ds.mul_(self.right[g]), out=product)

    def gradients(self) -> list[Tensor | None]:
        pairs = ((self.da, self.a, self.radial_a), (self.dc, self.c, self.radial_c))
        found = [None if dx is None else self._through_the_norm(dx, side, radial) for dx, side, radial in pairs]
        needed = self.plan.needs[2]
        return [*found, -self.radial_a.sum(-1) / self.temperature if needed else None]

    def _products(self, chunk: slice) -> tuple[Tensor, ...]:
        """The Gram matrices of all levels of a chunk of anchors: each is the one before and a block's product."""
        places = self.places[:, : chunk.stop - chunk.start].unbind()
        before: Tensor | None = None
        for (start, stop), place in zip(self.plan.nesting.blocks, places, strict=True):
            a, c = self.a.x[chunk, start:stop], self.c.x[:, start:stop].mT
            before = put_product(place, a, c, False) if before is None else add_product(before, a, c, out=place)
        return places

    def _tiles(self, chunk: slice) -> list[slice]:
        starts = range(chunk.start, chunk.stop, self.tile)
        return [slice(start, min(chunk.stop, start + self.tile)) for start in starts]

    def _similarities(self, g: int, product: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """``K_g / (|c| temperature)``, and what is compared: that divided by ``|a|``, without what is excluded."""
        x, s = self.scratch[:, : len(product)]
        torch.mul(product, self.right[g], out=x)
        if self.a.inverse is None:
            s.copy_(x)
        else:
            torch.mul(x, self.a.inverse[g, chunk].unsqueeze(-1), out=s)
        if self.exclude is not None:
            s.masked_fill_(self.exclude[chunk], -torch.inf)
        return x, s

    def _add_products(self, g: int, gradient: Tensor, chunk: slice) -> None:
        """The gradients of the block that level ``g`` adds, of the sum of the ``gradient`` of all levels with it."""
        start, stop = self.plan.nesting.blocks[g]
        a, c = _widened(self.a.x[chunk, start:stop]), _widened(self.c.x[:, start:stop])
        gradient = gradient.to(a.dtype)
        if self.da is not None:
            put_product(self.da[chunk, start:stop], gradient, c, False)
        if self.dc is not None:
            put_product(self.dc[:, start:stop], gradient.mT, a, chunk.start > 0)

    def _through_the_norm(self, dx: Tensor, side: Side, radial: Tensor) -> Tensor:
        """Less what points along the prefixes, each level's in all of its columns."""
        if side.inverse is not None:
            along = (radial * side.inverse.square()).flip(0).cumsum(0).flip(0)
            for (start, stop), factor in zip(self.plan.nesting.blocks, along.unbind(), strict=True):
                dx[:, start:stop].addcmul_(factor.unsqueeze(-1), side.x[:, start:stop].to(dx.dtype), value=-1)
        return dx if side.power is None else dx.mul_(side.power)


def _widened(x: Tensor) -> Tensor:
    """float16 has no room for gradients of all sizes, which norms of all sizes make."""
    return x.float() if x.dtype == torch.float16 else x


def _side(x: Tensor, plan: Plan, wide: torch.dtype) -> Side:
    x = x.to(plan.narrow)
    factor = x if multiplies(plan.narrow, x.device) else x.to(wide)
    if not plan.cosine:
        return Side(factor, None, None)
    blocks, power = plan.nesting.blocks, None
    if plan.narrow != torch.float16:  # whose squares and their sums are in range
        power = _power(torch.stack([x[:, start:stop].abs().amax(-1) for start, stop in blocks]).to(wide))
        seen = x.device.type == "cpu" and has_memory(x)
        power = None if seen and bool((power == 1).all()) else power.unsqueeze(-1)
        factor = factor if power is None else factor * power.to(factor.dtype)
    norms = [torch.linalg.vector_norm(factor[:, start:stop], dim=-1, dtype=wide) for start, stop in blocks]
    norm = torch.stack(norms).square_().cumsum(0).sqrt_()
    tiny = norm <= (1e-12 if power is None else 1e-12 * power.squeeze(-1))
    return Side(factor, norm.reciprocal_().masked_fill_(tiny, 0), power)


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
