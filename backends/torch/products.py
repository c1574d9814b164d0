"""Products of factors that are differentiable any number of times, and as wide as they are summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .arrays import multiplies, no_autocast


def products(x: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """``x[..., :m] @ weight.mT`` of every ``(C, m)`` weight, in float32 or wider whatever autocast says."""
    if multiplies(x.dtype, x.device):
        kind = _HalfProducts if torch.compiler.is_compiling() else _HalfProductsForward
        return kind.apply(x, *weights)
    if torch.compiler.is_compiling() and torch.is_autocast_enabled(x.device.type):
        return [_Product.apply(x[:, : weight.shape[1]], weight) for weight in weights]
    with no_autocast(x.device):
        return [x[:, : weight.shape[1]] @ weight.mT for weight in weights]


class _Product(torch.autograd.Function):
    """Compiled, the backward pass is traced under the autocast that is left alone outside of here."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        with no_autocast(x.device):
            return x @ weight.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        with no_autocast(x.device):
            return upstream @ weight, upstream.mT @ x


class _HalfProducts(torch.autograd.Function):
    """Half-precision factors and products in float32, for which PyTorch has no derivative of its own.

    What comes from above is rounded once, as it is for a product in half precision; sums over weights are in float32.
    """

    @staticmethod
    def forward(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(_multiply(x[..., : weight.shape[-1]], weight.mT) for weight in weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        dx, dweights = None, []
        for weight, upstream in zip(weights, upstreams, strict=True):
            m, narrow = weight.shape[-1], upstream.to(x.dtype)
            part = pad(products(narrow, [weight.mT])[0], (0, x.shape[-1] - m))
            dx = part if dx is None else dx + part
            dweights.append(products(narrow.mT, [x[..., :m].mT])[0].to(weight.dtype))
        return dx.to(x.dtype), *dweights

    @staticmethod
    def vmap(info: Any, in_dims: Any, *factors: Tensor) -> Any:
        size = info.batch_size
        together = [
            x.expand(size, *x.shape) if axis is None else x.movedim(axis, 0)
            for x, axis in zip(factors, in_dims, strict=True)
        ]
        return tuple(products(together[0], together[1:])), (0,) * (len(factors) - 1)


class _HalfProductsForward(_HalfProducts):
    """The same with a forward-mode derivative, which torch.compile does not take of a user's function."""

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, *dweights: Tensor | None) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        tangents = []
        for weight, dweight in zip(weights, dweights, strict=True):
            m = weight.shape[-1]
            parts = [] if dx is None else [products(dx[..., :m], [weight])[0]]
            parts += [] if dweight is None else [products(x[..., :m], [dweight])[0]]
            tangents.append(sum(parts[1:], parts[0]) if parts else None)
        return tuple(tangents)


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    stacked = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), out_dtype=torch.float32)
    return stacked.reshape(*a.shape[:-1], b.shape[-1])
