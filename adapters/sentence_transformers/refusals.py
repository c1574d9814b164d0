"""Losses that cannot be asked for a prefix, refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.losses import uses_gradient_cache
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sentence_transformer import losses
from torch import nn

from .views import unwrapped

ROUND = "it reaches into the model itself, and goes around a Matryoshka loss: pass this one to it"
NEVER = {
    losses.AdaptiveLayerLoss: ROUND,
    losses.MatryoshkaLoss: "it nests already: give one of them all the dims",
    losses.ContrastiveTensionLoss: "it trains two models, of which one would stay whole: use another contrastive loss",
    losses.ContrastiveTensionLossInBatchNegatives: (
        "it trains two models, of which one would stay whole: use MultipleNegativesRankingLoss"
    ),
    losses.DenoisingAutoEncoderLoss: "its decoder reads whole embeddings: use a loss that compares embeddings",
}


def check_loss(loss: Any, model: Any, dims: Sequence[int]) -> None:
    if not isinstance(loss, nn.Module):
        raise TypeError(
            f"loss: expected a loss of sentence-transformers, got {type(loss).__name__}; pass an instance of one"
        )
    name = type(loss).__name__
    for kind, why in NEVER.items():
        if isinstance(loss, kind):
            raise ValueError(f"loss: expected one that can be computed of a prefix, got {name}: {why}")
    layer = None
    if isinstance(loss, losses.SoftmaxLoss):
        layer = getattr(loss, "classifier", None)
    elif isinstance(loss, losses.EmbedDistillLoss):
        layer = getattr(loss, "projection", None)
    width = getattr(unwrapped(model), "get_embedding_dimension", lambda: None)()
    if layer is not None and any(dim != width for dim in dims):
        raise ValueError(
            f"loss: expected one that can be computed of a prefix, got {name}: its layer of {layer.in_features} inputs "
            "reads whole embeddings; use a loss that compares embeddings"
            + (", or leave out projection_dim" if isinstance(loss, losses.EmbedDistillLoss) else "")
        )
    if uses_gradient_cache(loss) and not hasattr(loss, "calculate_loss"):
        raise ValueError(
            f"loss: expected one that can be computed of a prefix, got {name}, which caches gradients but has no "
            "calculate_loss; use CachedMultipleNegativesRankingLoss"
        )
    held = unwrapped(getattr(loss, "model", None))
    if isinstance(held, BaseModel) and held is not unwrapped(model):
        raise ValueError(
            f"loss: expected one that holds the model of this loss, got {name} with another; make both of one model"
        )
