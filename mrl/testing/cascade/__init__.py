"""Adaptive classification under proof."""
