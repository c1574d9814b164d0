"""TensorFlow, eager or in a ``tf.function``, with and without XLA."""

from .arrays import devices, from_numpy, take_numpy, to_numpy
from .cascade import cascade_exit, cascade_predict
from .contrastive import nested_contrastive
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
    "value_and_gradients",
]
