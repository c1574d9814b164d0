"""Matryoshka heads, losses, metrics and a model for Keras 3, under TensorFlow, JAX and PyTorch."""

from .head import MatryoshkaHead
from .losses import NestedCategoricalCrossentropy, NestedSparseCategoricalCrossentropy
from .metrics import GranularityAccuracy
from .model import MatryoshkaModel

__all__ = [
    "GranularityAccuracy",
    "MatryoshkaHead",
    "MatryoshkaModel",
    "NestedCategoricalCrossentropy",
    "NestedSparseCategoricalCrossentropy",
]
