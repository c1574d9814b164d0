"""Adaptive retrieval."""
from .prepared import Database, SearchResult
