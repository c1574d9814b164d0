"""One step, forward and backward, of each way to train a head in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import Size

import mrl


def steps(size: Size, mode: str, device: str = "cpu", dtype: str | None = None) -> dict[str, Callable[[], Any]]:
    """``plain`` is one full-width linear head with cross-entropy; every other step trains the nested loss."""
    z, head, labels = size.inputs()
    nesting = size.nesting
    made = {"device": device, "dtype": getattr(torch, dtype or size.dtype)}
    z = torch.tensor(z, **made).requires_grad_()
    labels = torch.tensor(labels, device=device).long()
    head = mrl.convert(head, "torch", device=device)
    leaves = [
        torch.as_tensor(x, **made).requires_grad_() for x in (head if size.tied else (*head.weights, *head.biases))
    ]
    count = len(nesting)
    head = mrl.TiedHead(*leaves) if size.tied else mrl.NestedHead(tuple(leaves[:count]), tuple(leaves[count:]))
    full = (head.weight, head.bias) if size.tied else (head.weights[-1], head.biases[-1])

    def gradients(loss: torch.Tensor, of: list[torch.Tensor]) -> Any:
        return torch.autograd.grad(loss, of)

    def plain() -> Any:
        return gradients(F.cross_entropy(F.linear(z, *full), labels), [z, *full])

    def level(g: int, m: int) -> torch.Tensor:
        if size.tied:
            return F.linear(z[:, :m], head.weight[:, :m], head.bias)
        return F.linear(z[:, :m], head.weights[g], head.biases[g])

    def loop() -> Any:
        # What the reference implementation does: a slice, a linear layer and a cross-entropy per granularity.
        losses = [F.cross_entropy(level(g, m), labels) for g, m in enumerate(nesting.dims)]
        return gradients(sum(losses), [z, *leaves])

    def nested(fused: bool) -> Callable[[], Any]:
        return lambda: gradients(mrl.nested_cross_entropy(z, head, labels, nesting, fused=fused).total, [z, *leaves])

    found = {"plain": plain, "fused": nested(True), "composed": nested(False), "loop of linear + cross_entropy": loop}
    if hasattr(F, "linear_cross_entropy"):  # since PyTorch 2.13: a plain head's loss, by chunks of its own planning

        def chunked() -> Any:
            options = torch.nn.LinearCrossEntropyOptions()
            loss = F.linear_cross_entropy(z, full[0], labels, linear_bias=full[1], options=options)
            return gradients(loss, [z, *full])

        found["plain, by chunks of PyTorch"] = chunked
    return found


def wait(result: Any) -> None:
    if result[0].device.type != "cpu":
        torch.accelerator.synchronize()
