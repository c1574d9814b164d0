"""Another array library that mrl has never heard of: PyTorch in a coat, which differentiates."""

from __future__ import annotations

import torch


class Coat:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def __mul__(self, other: Coat) -> Coat:
        return Coat(self.tensor * other.tensor)

    def __getitem__(self, index: object) -> Coat:
        return Coat(self.tensor[index])

    def float(self) -> Coat:
        return Coat(self.tensor.float())
