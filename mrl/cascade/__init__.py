"""Adaptive classification: policies that are fitted, executed and guaranteed."""

from .execute import cascade_exit, cascade_predict
from .policy import CascadePolicy, CascadeResult

__all__ = ["CascadePolicy", "CascadeResult", "cascade_exit", "cascade_predict"]
