"""The nested contrastive loss, composed of differentiable operations or fused, of one device or of many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mrl.heads import NestedLoss
from mrl.nesting import Nesting

from .across import all_rows, place_of, size_of
from .arrays import common_dtype, wide_dtype
from .contrastive_fused import fused_contrastive
from .losses import truncate, weighted_sum
from .products import products


def nested_contrastive(
    anchors: Tensor,
    positives: Tensor,
    nesting: Nesting,
    *,
    negatives: Tensor | None,
    temperature: float | Tensor,
    exclude: Tensor | None,
    symmetric: bool,
    similarity: str,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any,
) -> NestedLoss:
    count, kept = len(nesting), nesting.levels_in_use
    wide = wide_dtype(*(x for x in (anchors, positives, negatives) if x is not None))
    if not isinstance(temperature, Tensor):
        temperature = anchors.new_full((), temperature, dtype=wide)
    temperatures = temperature.to(wide).expand(count)[list(kept)]
    temperatures = torch.where((temperatures > 0) & (temperatures < math.inf), temperatures, math.nan)
    used = nesting
    if len(kept) < count:
        used = Nesting([nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept])
    if negatives is not None:
        negatives = negatives.reshape(-1, negatives.shape[-1])
    first, others, transposed = 0, None, None
    if across is not None:
        first = place_of(across) * len(anchors)
        # Each positive among the anchors of all devices is another product, of other rows.
        wanted = [positives, negatives, *((anchors, exclude) if symmetric else ())]
        positives_of_all, negatives, *rest = all_rows(wanted, across)
        if symmetric:
            others, kept_out = rest
            transposed = None if kept_out is None else kept_out[:, first : first + len(anchors)].mT
    else:
        positives_of_all = positives
    candidates = positives_of_all if negatives is None else torch.cat([positives_of_all, negatives])

    def directed(a: Tensor, c: Tensor, exclude: Tensor | None, both: bool) -> tuple[Tensor, Tensor]:
        form = fused_contrastive if fused else _composed
        return form(a, c, temperatures, exclude, used, similarity == "cosine", both, first, reduction, chunk_rows)

    total, per_level = directed(anchors, candidates, exclude, symmetric and others is None)
    if others is not None:
        pairs = zip((total, per_level), directed(positives, others, transposed, False), strict=True)
        total, per_level = ((x + y) / 2 for x, y in pairs)
    if across is not None and reduction == "sum":  # the mean over devices is the sum of all
        total, per_level = (size_of(across) * x for x in (total, per_level))
    if len(kept) < count:
        nothing, found = torch.full_like(per_level[0], math.nan), dict(zip(kept, per_level.unbind(), strict=True))
        per_level = torch.stack([found.get(g, nothing) for g in range(count)])
    return NestedLoss(total, per_level.detach())


def _composed(
    a: Tensor,
    c: Tensor,
    temperatures: Tensor,
    exclude: Tensor | None,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    first: int,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """``(total, per_level)``, level by level."""
    count, wide = len(a), temperatures.dtype
    narrow = common_dtype(a, c)
    a, c = (x.to(narrow).to(wide) for x in (a, c))
    levels = []
    for dim, temperature in zip(nesting.dims, temperatures.unbind(), strict=True):
        x, y = (truncate(z, dim, normalize=cosine) for z in (a, c))
        s = products(x, [y])[0] / temperature
        matching = s[:, first : first + count].diagonal()
        if exclude is not None:
            s = s.masked_fill(exclude, -math.inf)
        loss = s.logsumexp(-1) - matching
        if symmetric:
            loss = (loss + (s[:, :count].logsumexp(0) - matching)) / 2
        levels.append(loss)
    losses = torch.stack(levels)
    if exclude is not None:
        own = exclude[:, first : first + count].diagonal()
        losses = losses * torch.where(own, math.nan, 1.0)
    if reduction != "none":
        losses = losses.sum(-1) / (max(1, count) if reduction == "mean" else 1)
    return weighted_sum(losses, nesting, None), losses
