"""Adaptive retrieval under proof."""
