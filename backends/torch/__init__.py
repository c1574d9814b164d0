"""PyTorch, on any device; traceable by ``torch.compile(fullgraph=True)``, and by ``torch.func``."""

from torch.serialization import add_safe_globals

from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import NestedHead, NestedLoss, TiedHead
from mrl.nesting import Nesting

from .across import size_of as classes_size
from .arrays import devices, from_numpy, to_numpy
from .cascade import cascade_exit, cascade_predict
from .contrastive import nested_contrastive
from .gradients import value_and_gradients
from .losses import nested_accuracy, nested_cross_entropy, nested_logits, truncate
from .retrieval import prepare_database, rerank, search

__all__ = [
    "cascade_exit",
    "cascade_predict",
    "classes_size",
    "devices",
    "from_numpy",
    "nested_accuracy",
    "nested_contrastive",
    "nested_cross_entropy",
    "nested_logits",
    "prepare_database",
    "rerank",
    "search",
    "to_numpy",
    "truncate",
    "value_and_gradients",
]

# What ``torch.load(weights_only=True)`` may make of a file: values, whose constructors check what they are given.
add_safe_globals([TiedHead, NestedHead, NestedLoss, Nesting, CascadePolicy, CascadeResult])
