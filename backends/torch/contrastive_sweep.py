"""The loop over chunks of anchors, the products and the element-wise work of the fused contrastive loss."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

from .contrastive_sides import Side, side_of, through_the_norm
from .sweep import add_product, put_product

TILE_BYTES = 1 << 21
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


def sweep(
    a: Tensor, c: Tensor, temperature: Tensor, exclude: Tensor | None, rows: Tensor, plan: Plan
) -> tuple[Tensor, list[Tensor | None]]:
    """``rows[i] * loss_g[i]`` as ``(G, B)``, then the gradients that are needed, all in the dtype of ``rows``."""
    if exclude is not None:  # an anchor without its own positive has no loss
        own = exclude[:, plan.first : plan.first + len(a)].diagonal()
        rows = rows.masked_fill(own, torch.nan)
    left, right = (side_of(x, plan.nesting, plan.cosine, plan.narrow, rows.dtype) for x in (a, c))
    work = _Sweep(left, right, temperature, exclude, rows, plan)
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
        weighted = self.plan.nesting.weights[g] * self.rows[tile]
        x, s = self._similarities(g, product, tile)
        own = torch.arange(tile.start, tile.stop, device=x.device).add_(self.plan.first).unsqueeze(-1)
        matching = s.gather(-1, own).squeeze(-1)
        # The gradient of similarities is ds with its rows multiplied by these, which need no pass of their own.
        scale: Tensor | None = None
        if self.sums is None:
            largest = s.amax(-1)
            ds = s.sub_(largest.unsqueeze(-1)).exp_()
            mass = ds.sum(-1)
            # The logarithm comes last: beside a large similarity it would be rounded.
            self.losses[g, tile] = self.rows[tile] * (largest - matching + mass.log())
            ds.scatter_add_(-1, own, -mass.unsqueeze(-1))
            scale = weighted / mass
        else:
            of_rows, of_columns = self.sums[0][g, tile], self.sums[1][g]
            both = (of_rows - matching) + (of_columns[tile] - matching)
            self.losses[g, tile] = self.rows[tile] * both / 2
            columns = (s[:, : len(of_columns)] - of_columns).exp_().mul_(self.plan.nesting.weights[g] / 2 * self.rows)
            ds = s.sub_(of_rows.unsqueeze(-1)).exp_().mul_(weighted.unsqueeze(-1) / 2)
            ds[:, : len(of_columns)] += columns
            ds.scatter_add_(-1, own, -weighted.unsqueeze(-1))
        if not any(self.plan.needs):
            return
        if self.a.inverse is not None:
            scale = self.a.inverse[g, tile] if scale is None else scale * self.a.inverse[g, tile]
        if self.plan.cosine or self.plan.needs[2]:
            self._add_radial(g, x.mul_(ds), scale, tile)
        if scale is not None:
            ds.mul_(scale.unsqueeze(-1))
        if above is None:
            torch.mul(ds, self.right[g], out=product)
        else:
            torch.addcmul(above, ds, self.right[g], out=product)

    def _add_radial(self, g: int, radial: Tensor, scale: Tensor | None, tile: slice) -> None:
        """The sums of ``radial``, whose rows are multiplied by ``scale`` in their sums."""
        of_rows = radial.sum(-1)
        self.radial_a[g, tile] = of_rows if scale is None else of_rows * scale
        if self.dc is not None and self.plan.cosine:
            self.radial_c[g] += radial.sum(0) if scale is None else radial.mT @ scale

    def gradients(self) -> list[Tensor | None]:
        pairs = ((self.da, self.a, self.radial_a), (self.dc, self.c, self.radial_c))
        found = [
            None if dx is None else through_the_norm(dx, side, radial, self.plan.nesting) for dx, side, radial in pairs
        ]
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


def _widened(x: Tensor) -> Tensor:
    """float16 has no room for gradients of all sizes, which norms of all sizes make."""
    return x.float() if x.dtype == torch.float16 else x
