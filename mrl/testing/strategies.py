"""Hypothesis strategies for the problems of every family: small shapes, where bounds are tight and search is quick."""

from .cascade.problems import cascade_layouts, cascade_problems, policies
from .cross_entropy.problems import TRACED_LAYOUTS, layouts, problems
from .drawing import nestings
from .retrieval.problems import search_layouts

__all__ = [
    "TRACED_LAYOUTS",
    "cascade_layouts",
    "cascade_problems",
    "layouts",
    "nestings",
    "policies",
    "problems",
    "search_layouts",
]
