"""The executable specification: values and gradients in float64, written naively, level by level.

Every backend is compared with these functions. They take NumPy arrays, compute in float64, slice
``z[..., :m]`` from the raw granularities and never use :attr:`mrl.Nesting.blocks`, so that a mistake in the
planning of the fast kernels cannot hide here. Gradients are written out by hand and are themselves checked
against central differences.

``<op>_vjp(..., upstream)`` gives the vector-Jacobian product of ``<op>``: the gradient of
``sum(upstream * op(...))``. Arguments are not checked: that is done above, where users call.
"""

from .accuracy import nested_accuracy
from .cascade import cascade_exit, cascade_predict, confidence
from .contrastive import ContrastiveGradients, nested_contrastive, nested_contrastive_vjp
from .cross_entropy import nested_cross_entropy, nested_cross_entropy_vjp
from .logits import nested_logits, nested_logits_vjp
from .retrieval import funnel_search, rerank, retrieval_scores, search
from .truncate import SMALLEST_NORM, truncate, truncate_vjp

__all__ = [
    "SMALLEST_NORM",
    "ContrastiveGradients",
    "cascade_exit",
    "cascade_predict",
    "confidence",
    "funnel_search",
    "nested_accuracy",
    "nested_contrastive",
    "nested_contrastive_vjp",
    "nested_cross_entropy",
    "nested_cross_entropy_vjp",
    "nested_logits",
    "nested_logits_vjp",
    "rerank",
    "retrieval_scores",
    "search",
    "truncate",
    "truncate_vjp",
]
