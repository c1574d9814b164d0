"""From one framework to another."""

from .convert import BackendInfo, available_backends, convert, init_head

__all__ = ["BackendInfo", "available_backends", "convert", "init_head"]
