"""What is differentiable once, in reverse, and says so when it is asked for more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .arrays import has_memory


class DifferentiableOnce(torch.autograd.Function):
    """A gradient that depends on ``inputs`` in a way that is not known: asking for it is an error, not zero."""

    @staticmethod
    def forward(gradient: Tensor, function: str, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        raise too_much(ctx.function, "a second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, gradient: Tensor, function: str, *inputs: Tensor) -> Any:
        raise too_much(function, "vmap over its gradient")


def is_transformed() -> bool:
    """Whether the operator of compiled code would lose a tangent, or fail where PyTorch cannot say why."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check_traceable(function: str) -> None:
    """That no transform is at work which the fused form of a loss could not tell from an ordinary call."""
    if torch.compiler.is_compiling():
        if is_transformed():
            raise too_much(function, "torch.func or forward-mode differentiation inside torch.compile")
    elif torch.jit.is_tracing():
        raise RuntimeError(
            f"{function}: the fused form is one function of autograd, which torch.jit.trace cannot record; "
            "use torch.export, or pass fused=False for the composed form"
        )


def refuse_distributed(function: str, arrays: Sequence[Tensor]) -> None:
    """A tensor that shards itself: the fused form writes into parts of what it makes, which has no such form."""
    distributed = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
    for x in arrays:
        if isinstance(x, distributed):
            raise NotImplementedError(
                f"{function}: the fused form works in place, got a DTensor placed {x.placements}; pass x.to_local(), "
                "for a head sharded by classes with classes_across=mesh.get_group(), for rows of a batch with "
                "across=mesh.get_group(); or x.full_tensor()"
            )


def is_one(upstream: Tensor) -> bool:
    """Whether it is seen, without waiting for a device, that nothing has to be scaled."""
    return upstream.device.type == "cpu" and has_memory(upstream) and upstream.item() == 1


def too_much(function: str, asked: str) -> RuntimeError:
    return RuntimeError(
        f"{function}: the fused form is differentiable once, in reverse; got {asked}; "
        "pass fused=False for the composed form"
    )


def cannot_work(function: str, x: Tensor) -> NotImplementedError:
    """Of a tensor that shards itself, say."""
    return NotImplementedError(
        f"{function}: the fused form works in place, got a {type(x).__name__} on {x.device.type}, "
        "for which PyTorch lacks an operation; pass fused=False for the composed form"
    )
