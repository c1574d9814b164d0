"""Maps that make the embeddings of a model nested that was not trained so."""

from .adaptor import Adaptor, fit_adaptor
from .rotation import Rotation, fit_rotation
from .storage import load_transform, save_transform

__all__ = ["Adaptor", "Rotation", "fit_adaptor", "fit_rotation", "load_transform", "save_transform"]
