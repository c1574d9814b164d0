"""Wrong implementations that the proof must find out, for every family that the kit proves."""

from .cascade.mutants import GIVEN_EMBEDDINGS, GIVEN_LOGITS, GIVEN_PROBABILITIES
from .case import Mutant
from .contrastive.mutants import CONTRASTIVE
from .cross_entropy.mutants import CROSS_ENTROPY, LOGITS, TRUNCATE
from .retrieval.mutants import FUNNEL, RERANK, SEARCH

__all__ = [
    "CONTRASTIVE",
    "CROSS_ENTROPY",
    "FUNNEL",
    "GIVEN_EMBEDDINGS",
    "GIVEN_LOGITS",
    "GIVEN_PROBABILITIES",
    "LOGITS",
    "RERANK",
    "SEARCH",
    "TRUNCATE",
    "Mutant",
]
