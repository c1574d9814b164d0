"""Qdrant: a funnel as one query on a collection that has a named vector for every stage."""

from .building import build, open
from .funnel import QdrantFunnel

__all__ = ["QdrantFunnel", "build", "open"]
