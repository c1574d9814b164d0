"""The rows of all devices, on PyTorch's own process groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MOST_SIZES = 64
"""Of arrays that are compared over processes: what is compared has to have the same size everywhere, too."""


def group_of(across: Any) -> Any:
    """The process group that ``across`` names."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            f"across: expected torch.distributed to be initialised, got {across!r} without it; call "
            "torch.distributed.init_process_group first, or leave the argument out on one device"
        )
    if across is True:
        return dist.group.WORLD
    if not isinstance(across, dist.ProcessGroup):
        raise TypeError(
            f"across: expected True or a torch.distributed.ProcessGroup, got {type(across).__name__}; "
            "of a device mesh, pass mesh.get_group()"
        )
    return across


def place_of(across: Any) -> int:
    """Of this process among those of the group."""
    return dist.get_rank(group_of(across))


def size_of(across: Any) -> int:
    """The number of processes of the group."""
    return dist.get_world_size(group_of(across))


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Break a compiler's graph here: collectives are the engine's own and not a compiler's to reorder.

    ``torch.compiler.disable`` when it is needed, not at the import: it loads the whole compiler.
    """

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        run = torch.compiler.disable(function) if torch.compiler.is_compiling() else function
        return run(*given)

    return call


@uncompiled
def summed(x: Tensor, across: Any) -> Tensor:
    """The sum of all processes, which carries no gradient."""
    return reduced(x, across, dist.ReduceOp.SUM)


def reduced(x: Tensor, across: Any, operation: Any) -> Tensor:
    """A copy of ``x`` brought together with those of the other processes."""
    found = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found, operation, group_of(across))
    return found


@uncompiled
def all_rows(arrays: Sequence[Tensor | None], across: Any) -> list[Tensor | None]:
    """Of each array the rows of all processes in their order; what comes back for them is added up.

    Raises:
        ValueError: on every process, where one has another shape.
    """
    group = group_of(across)
    check_same_shapes([x for x in arrays if x is not None], across, "across")
    return [None if x is None else _AllRows.apply(x, group) for x in arrays]


def check_same_shapes(arrays: Sequence[Tensor], across: Any, name: str) -> None:
    """An error on every process, and not a collective that waits for ever, where one has another shape."""
    group = group_of(across)
    known = [size for x in arrays for size in (x.dim(), *x.shape)]
    sizes = torch.tensor([*known, *[-1] * (MOST_SIZES - len(known))], device=arrays[0].device)
    every = sizes.new_empty(dist.get_world_size(group), len(sizes))
    dist.all_gather(list(every.unbind()), sizes, group)
    if not bool((every == sizes).all()):
        raise ValueError(
            f"{name}: expected arrays of the same shapes on every device, got {_shapes(every)}; "
            "drop the last, smaller batch, or fill it up"
        )


def _shapes(every: Tensor) -> str:
    """In words, by rank."""
    found = []
    for rank, sizes in enumerate(every.tolist()):
        shapes, known = [], [size for size in sizes if size >= 0]
        while known:
            shapes.append(tuple(known[1 : 1 + known[0]]))
            known = known[1 + known[0] :]
        found.append(f"{shapes} on rank {rank}")
    return ", ".join(found)


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        sent = x.detach().to(torch.uint8) if x.dtype == torch.bool else x.detach().contiguous()
        found = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
        dist.all_gather(found, sent, group)
        return torch.cat(found).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        # A device's rows are candidates of all: their gradients meet in the accumulation dtype.
        wide = upstream.to(torch.promote_types(upstream.dtype, torch.float32)).contiguous()
        parts = wide.chunk(dist.get_world_size(ctx.group))
        out = torch.empty_like(parts[0])
        dist.reduce_scatter(out, list(parts), group=ctx.group)
        return out.to(upstream.dtype), None
