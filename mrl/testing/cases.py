"""The cases of the proof: what is called, and what the specification says it must give, of every family."""

from .cascade.cases import CASCADES
from .case import Case
from .contrastive.cases import CONTRASTIVE_CASES
from .cross_entropy.accuracy import ACCURACY
from .cross_entropy.cases import CROSS_ENTROPY_CASES
from .retrieval.cases import RETRIEVAL

CASES: tuple[Case, ...] = (*CROSS_ENTROPY_CASES, *CONTRASTIVE_CASES, ACCURACY, *CASCADES, *RETRIEVAL)
"""Every operation that the kit proves."""

__all__ = ["CASES", "Case"]
