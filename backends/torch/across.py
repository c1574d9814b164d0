"""The rows of all devices, on PyTorch's own process groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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


# Collectives are the engine's own and not a compiler's to reorder: compiled code breaks its graph here.
@torch.compiler.disable
def all_rows(arrays: Sequence[Tensor | None], across: Any) -> list[Tensor | None]:
    """Of each array the rows of all processes in their order; what comes back for them is added up.

    Raises:
        ValueError: on every process, where one has another shape.
    """
    group, given = group_of(across), [x for x in arrays if x is not None]
    sizes = torch.tensor([size for x in given for size in x.shape], device=given[0].device)
    every = sizes.new_empty(dist.get_world_size(group), len(sizes))
    dist.all_gather(list(every.unbind()), sizes, group)
    if not bool((every == sizes).all()):
        raise ValueError(
            f"across: expected arrays of the same shapes on every device, got sizes {every.tolist()} by rank; "
            "drop the last, smaller batch, or fill it up"
        )
    return [None if x is None else _AllRows.apply(x, group) for x in arrays]


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
