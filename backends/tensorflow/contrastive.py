"""The nested contrastive loss, composed of differentiable operations or fused, of one device or of many."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mrl.heads import NestedLoss
from mrl.nesting import Nesting

from .across import all_rows, place_of, size_of
from .arrays import nan_where, wide_dtype
from .contrastive_fused import fused_contrastive
from .losses import truncate
from .targets import weighted_sum


def nested_contrastive(
    anchors: Any,
    positives: Any,
    nesting: Nesting,
    *,
    negatives: Any,
    temperature: Any,
    exclude: Any,
    symmetric: bool,
    similarity: str,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any,
) -> NestedLoss:
    count, kept = len(nesting), nesting.levels_in_use
    wide = wide_dtype(*(x for x in (anchors, positives, negatives) if x is not None))
    anchors, positives = tf.cast(anchors, wide), tf.cast(positives, wide)
    if negatives is not None:
        negatives = tf.reshape(tf.cast(negatives, wide), [-1, negatives.shape[-1]])
    temperature = tf.cast(temperature, wide) if hasattr(temperature, "dtype") else tf.constant(temperature, wide)
    temperatures = tf.gather(tf.broadcast_to(temperature, [count]), kept)
    temperatures += nan_where(~((temperatures > 0) & (temperatures < math.inf)), wide)
    used = nesting
    if len(kept) < count:
        used = Nesting([nesting.dims[g] for g in kept], [nesting.weights[g] for g in kept])
    rows = anchors.shape[0] if anchors.shape[0] is not None else tf.shape(anchors)[0]
    first, others, transposed = 0, None, None
    if across is not None:
        first = place_of(across) * rows
        # Each positive among the anchors of all replicas is another product, of other rows.
        wanted = [positives, negatives, *((anchors, exclude) if symmetric else ())]
        positives_of_all, negatives, *rest = all_rows(wanted, across)
        if symmetric:
            others, kept_out = rest
            transposed = None if kept_out is None else tf.transpose(kept_out[:, first : first + rows])
    else:
        positives_of_all = positives
    candidates = positives_of_all if negatives is None else tf.concat([positives_of_all, negatives], 0)

    def directed(a: tf.Tensor, c: tf.Tensor, exclude: Any, both: bool) -> tuple[tf.Tensor, tf.Tensor]:
        form = fused_contrastive if fused else _composed
        own = first + tf.range(rows)
        return form(a, c, temperatures, exclude, own, used, similarity == "cosine", both, reduction, chunk_rows)

    total, per_level = directed(anchors, candidates, exclude, symmetric and others is None)
    if others is not None:
        pairs = zip((total, per_level), directed(positives, others, transposed, False), strict=True)
        total, per_level = ((x + y) / 2 for x, y in pairs)
    if across is not None and reduction == "sum":  # the mean over devices is the sum of all
        total, per_level = (size_of(across) * x for x in (total, per_level))
    if len(kept) < count:
        found = dict(zip(kept, tf.unstack(per_level, len(kept)), strict=True))
        unknown = tf.fill(tf.shape(total), tf.constant(math.nan, wide))
        per_level = tf.stack([found.get(g, unknown) for g in range(count)])
    return NestedLoss(total, tf.stop_gradient(per_level))


def _composed(
    a: tf.Tensor,
    c: tf.Tensor,
    temperatures: tf.Tensor,
    exclude: Any,
    own: tf.Tensor,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """``(total, per_level)``, level by level."""
    levels = []
    for g, dim in enumerate(nesting.dims):
        x, y = (truncate(z, dim, normalize=cosine) for z in (a, c))
        s = tf.matmul(x, y, transpose_b=True) / temperatures[g]
        matching = tf.gather(s, own, batch_dims=1)
        if exclude is not None:
            s = tf.where(exclude, tf.constant(-math.inf, s.dtype), s)
        loss = tf.reduce_logsumexp(s, 1) - matching
        if symmetric:
            loss = (loss + (tf.reduce_logsumexp(s[:, : tf.shape(a)[0]], 0) - matching)) / 2
        levels.append(loss)
    losses = tf.stack(levels)
    if exclude is not None:
        losses *= 1 + nan_where(tf.gather(exclude, own, batch_dims=1), losses.dtype)
    if reduction != "none":
        losses = tf.reduce_sum(losses, 1)
    if reduction == "mean":
        losses /= tf.cast(tf.maximum(tf.shape(a)[0], 1), losses.dtype)
    return weighted_sum(tf.unstack(losses, len(nesting)), list(nesting.weights)), losses
