"""Adaptive retrieval: exact search on prefixes, funnels, and what they are worth."""

from . import metrics
from .plan import FunnelChoice, FunnelPlan
from .planner import plan_funnel
from .prepared import Database, SearchResult
from .search import funnel_search, prepare_database, rerank, search
from .storage import load_database, save_database

__all__ = [
    "Database",
    "FunnelChoice",
    "FunnelPlan",
    "SearchResult",
    "funnel_search",
    "load_database",
    "metrics",
    "plan_funnel",
    "prepare_database",
    "rerank",
    "save_database",
    "search",
]
