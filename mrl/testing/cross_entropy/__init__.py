"""Prefixes, logits and the nested cross-entropy under proof."""
