"""Matryoshka training in sentence-transformers: its ``MatryoshkaLoss``, by another import."""

from .loss import MatryoshkaLoss

__all__ = ["MatryoshkaLoss"]
