"""Adaptive retrieval: exact search on prefixes, funnels, and what they are worth."""

from . import metrics
from .prepared import Database, SearchResult
from .search import funnel_search, prepare_database, rerank, search

__all__ = [
    "Database",
    "SearchResult",
    "funnel_search",
    "metrics",
    "prepare_database",
    "rerank",
    "search",
]
