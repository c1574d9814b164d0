"""In-batch negatives by :func:`mrl.nested_contrastive`, whose one Gram matrix serves all granularities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.util import cos_sim, dot_score, get_world_size, pytorch_cos_sim
from torch import Tensor, nn

import mrl

from .levels import Levels, check_width

Ranking = losses.MultipleNegativesRankingLoss
CachedRanking = losses.CachedMultipleNegativesRankingLoss
SIMILARITIES = (cos_sim, pytorch_cos_sim, dot_score)
"""Of unit vectors, which is what every granularity compares, they are one."""
DIRECTIONS = {
    (frozenset({"query_to_doc"}), "joint"): False,
    (frozenset({"query_to_doc"}), "per_direction"): False,
    (frozenset({"query_to_doc", "doc_to_query"}), "per_direction"): True,
}
"""Those that a loss of anchors and candidates has, and whether it is the symmetric one."""
OWN = (
    (Ranking, ("forward", "compute_loss_from_embeddings")),
    (CachedRanking, ("forward", "calculate_loss", "forward_cached")),
)


def options_of(loss: nn.Module) -> dict[str, Any] | None:
    """How :func:`mrl.nested_contrastive` computes the loss, or ``None`` where it is another one."""
    kind, names = next((own for own in OWN if isinstance(loss, own[0])), (None, ()))
    if kind is None:
        return None
    changed = [n for n in names if n in vars(loss) or getattr(type(loss), n) is not getattr(kind, n)]
    hard = loss.hardness_mode is not None and loss.hardness_strength
    symmetric = DIRECTIONS.get((frozenset(loss.directions), loss.partition_mode))
    scale = loss.scale
    plain = isinstance(scale, (int, float)) and 0 < scale < math.inf
    if changed or hard or symmetric is None or loss.similarity_fct not in SIMILARITIES or not plain:
        return None
    options: dict[str, Any] = {"temperature": 1 / scale, "symmetric": symmetric}
    if loss.gather_across_devices:
        if get_world_size() == 1:  # which the loss itself warns of
            return None
        options["across"] = True
    return options


def nesting_of(levels: Levels) -> mrl.Nesting | None:
    """The levels as a nesting, in which no dim stands twice, or ``None`` where their weights are none's."""
    weights: dict[int, float] = {}
    for dim, weight in sorted(levels):
        weights[dim] = weights.get(dim, 0.0) + weight
    try:
        return mrl.Nesting(list(weights), list(weights.values()))
    except (TypeError, ValueError):
        return None


def fits(columns: Sequence[Any]) -> bool:
    """Whether they are anchors, their positives and further candidates: what is not, the loss itself shall refuse."""
    if len(columns) < 2:
        return False
    matrices = all(isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point() for x in columns)
    return matrices and len(columns[0]) == len(columns[1])


def nested_ranking(columns: Sequence[Tensor], nesting: mrl.Nesting, options: dict[str, Any]) -> Tensor:
    anchors, positives, *negatives = columns
    check_width(nesting.width, anchors.shape[-1])
    further = torch.cat(negatives) if negatives else None
    return mrl.nested_contrastive(anchors, positives, nesting, negatives=further, **options).total
