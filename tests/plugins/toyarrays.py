"""An array library that mrl has never heard of: NumPy in a coat."""

from __future__ import annotations

from typing import Any

import numpy as np


class ToyArray:
    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def __getitem__(self, index: Any) -> ToyArray:
        return ToyArray(self.values[index])
