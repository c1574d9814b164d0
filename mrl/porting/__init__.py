"""From one framework to another, and from one file to another."""

from .card import read_matryoshka_card, write_matryoshka_card
from .convert import BackendInfo, available_backends, convert, init_head
from .files import SavedHead, load_head, save_head
from .layouts import read_head, write_head

__all__ = [
    "BackendInfo",
    "SavedHead",
    "available_backends",
    "convert",
    "init_head",
    "load_head",
    "read_head",
    "read_matryoshka_card",
    "save_head",
    "write_head",
    "write_matryoshka_card",
]
