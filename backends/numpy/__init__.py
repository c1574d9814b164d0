"""NumPy: the specification itself, its results cast to the documented dtypes."""

from .arrays import devices, from_numpy, to_numpy
from .losses import nested_cross_entropy, nested_logits, truncate

__all__ = ["devices", "from_numpy", "nested_cross_entropy", "nested_logits", "to_numpy", "truncate"]
