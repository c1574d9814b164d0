"""JAX, on any device; every function can be jitted, and the composed ones transformed at will."""

from .arrays import devices, from_numpy, take_numpy, to_numpy, uniform
from .cascade import cascade_exit, cascade_predict
from .contrastive import nested_contrastive
from .exporting import register
from .gradients import value_and_gradients
from .losses import nested_accuracy, nested_cross_entropy, nested_logits, truncate
from .retrieval import prepare_database, rerank, search

__all__ = [
    "cascade_exit",
    "cascade_predict",
    "devices",
    "from_numpy",
    "nested_accuracy",
    "nested_contrastive",
    "nested_cross_entropy",
    "nested_logits",
    "prepare_database",
    "rerank",
    "search",
    "take_numpy",
    "to_numpy",
    "truncate",
    "uniform",
    "value_and_gradients",
]

register()  # a file can only be read by a process that has
