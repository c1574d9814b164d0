"""PyTorch, on any device; traceable by ``torch.compile(fullgraph=True)``, and by ``torch.func``."""

from .arrays import devices, from_numpy, to_numpy
from .cascade import cascade_exit, cascade_predict
from .losses import nested_cross_entropy, nested_logits, truncate

__all__ = [
    "cascade_exit",
    "cascade_predict",
    "devices",
    "from_numpy",
    "nested_cross_entropy",
    "nested_logits",
    "to_numpy",
    "truncate",
]
