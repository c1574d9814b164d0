"""How far a right implementation may be from the specification, for every family that the kit proves."""

from .cascade.bounds import cascade, cascade_values, confidence_bound
from .contrastive.bounds import nested_contrastive
from .cross_entropy.bounds import (
    logits_bound,
    nested_cosine,
    nested_cross_entropy,
    nested_ends,
    nested_logits,
    truncate,
)
from .retrieval.bounds import funnel_search, rerank, score_bound, search
from .rounding import Bounded, gamma

__all__ = [
    "Bounded",
    "cascade",
    "cascade_values",
    "confidence_bound",
    "funnel_search",
    "gamma",
    "logits_bound",
    "nested_contrastive",
    "nested_cosine",
    "nested_cross_entropy",
    "nested_ends",
    "nested_logits",
    "rerank",
    "score_bound",
    "search",
    "truncate",
]
