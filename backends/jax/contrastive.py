"""The nested contrastive loss, composed of differentiable operations or fused, of one device or of many."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mrl.heads import NestedLoss
from mrl.nesting import Nesting

from .across import all_rows, place_of, size_of
from .arrays import wide_dtype
from .contrastive_fused import fused_contrastive
from .losses import truncate
from .targets import weighted_sum


def nested_contrastive(
    anchors: Array,
    positives: Array,
    nesting: Nesting,
    *,
    negatives: Array | None,
    temperature: float | Array,
    exclude: Array | None,
    symmetric: bool,
    similarity: str,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any,
) -> NestedLoss:
    count, kept = len(nesting), nesting.levels_in_use
    wide = wide_dtype(*(x for x in (anchors, positives, negatives) if x is not None))
    temperatures = jnp.broadcast_to(jnp.asarray(temperature, wide), (count,))[jnp.array(kept)]
    temperatures = jnp.where((temperatures > 0) & (temperatures < math.inf), temperatures, math.nan)
    used = nesting
    if len(kept) < count:
        used = Nesting([nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept])
    if negatives is not None:
        negatives = negatives.reshape(-1, negatives.shape[-1])
    rows, first, others, transposed = anchors.shape[0], 0, None, None
    if across is not None:
        first = place_of(across) * rows
        # Each positive among the anchors of all devices is another product, of other rows.
        wanted = [positives, negatives, *((anchors, exclude) if symmetric else ())]
        positives_of_all, negatives, *rest = all_rows(wanted, across)
        if symmetric:
            others, kept_out = rest
            if kept_out is not None:
                transposed = jax.lax.dynamic_slice_in_dim(kept_out, first, rows, 1).T
    else:
        positives_of_all = positives
    candidates = positives_of_all if negatives is None else jnp.concatenate([positives_of_all, negatives])

    def directed(a: Array, c: Array, exclude: Array | None, both: bool) -> tuple[Array, Array]:
        form = fused_contrastive if fused else _composed
        own = first + jnp.arange(rows)
        return form(a, c, temperatures, exclude, own, used, similarity == "cosine", both, reduction, chunk_rows)

    total, per_level = directed(anchors, candidates, exclude, symmetric and others is None)
    if others is not None:
        pairs = zip((total, per_level), directed(positives, others, transposed, False), strict=True)
        total, per_level = ((x + y) / 2 for x, y in pairs)
    if across is not None and reduction == "sum":  # the mean over devices is the sum of all
        total, per_level = (size_of(across) * x for x in (total, per_level))
    if len(kept) < count:
        found = dict(zip(kept, per_level, strict=True))
        per_level = jnp.stack([found.get(g, jnp.full_like(per_level[0], math.nan)) for g in range(count)])
    return NestedLoss(total, jax.lax.stop_gradient(per_level))


def _composed(
    a: Array,
    c: Array,
    temperatures: Array,
    exclude: Array | None,
    own: Array,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[Array, Array]:
    """``(total, per_level)``, level by level."""
    a, c, count = a.astype(temperatures.dtype), c.astype(temperatures.dtype), a.shape[0]

    def of_own(x: Array) -> Array:
        return jnp.take_along_axis(x, own[:, None], 1)[:, 0]

    levels = []
    for g, dim in enumerate(nesting.dims):
        x, y = (truncate(z, dim, normalize=cosine) for z in (a, c))
        s = x @ y.T / temperatures[g]
        matching = of_own(s)
        if exclude is not None:
            s = jnp.where(exclude, -math.inf, s)
        loss = jax.nn.logsumexp(s, 1) - matching
        if symmetric:
            loss = (loss + (jax.nn.logsumexp(s[:, :count], 0) - matching)) / 2
        levels.append(loss)
    losses = jnp.stack(levels)
    if exclude is not None and count:
        losses = losses * jnp.where(of_own(exclude), math.nan, 1).astype(losses.dtype)
    if reduction != "none":
        losses = losses.sum(1) / (max(1, count) if reduction == "mean" else 1)
    return weighted_sum(losses, nesting.weights), losses
