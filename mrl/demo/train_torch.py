"""The encoder and its training in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mrl

from ..heads import Head
from ..nesting import Nesting
from .data import Split
from .encoder import Encoder
from .settings import Settings


def embed(encoder: Encoder, images: Tensor) -> Tensor:
    x = images
    for i, (weight, bias) in enumerate(zip(encoder.weights, encoder.biases, strict=True)):
        x = F.linear(x, weight, bias)
        if i + 1 < len(encoder.weights):
            x = F.relu(x)
    return x


def train(
    encoder: Encoder, head: Head, data: Split, nesting: Nesting, settings: Settings, progress: Callable[[], Any]
) -> tuple[Encoder, Head]:
    """Adam on the nested cross-entropy of encoder and head together."""
    # Copies: torch shares the memory of what it takes over, and trains in place.
    encoder, head = mrl.convert(_map(lambda x: x.copy(), (encoder, head)), "torch")
    images, labels = mrl.convert(tuple(data), "torch")
    parameters: list[Tensor] = []
    _map(lambda x: parameters.append(x.requires_grad_()), (encoder, head))
    optimizer = torch.optim.Adam(parameters, lr=settings.rate)
    for rows in settings.batches(len(images)):
        batch = torch.from_numpy(rows)
        loss = mrl.nested_cross_entropy(embed(encoder, images[batch]), head, labels[batch], nesting).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress()
    trained: tuple[Encoder, Head] = _map(lambda x: x.detach(), (encoder, head))
    return trained


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, tuple):
        mapped = [_map(function, value) for value in tree]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)
    return function(tree)
