"""The gradients of a function of the caller's, for an optimiser that is none of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def value_and_gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    def run(leaves: Sequence[Tensor], *fixed: Any) -> tuple[Tensor, list[Tensor]]:
        watched = [leaf.detach().requires_grad_() for leaf in leaves]
        with torch.enable_grad():
            value = function(watched, *fixed)
        return value.detach(), list(torch.autograd.grad(value, watched))

    return run
