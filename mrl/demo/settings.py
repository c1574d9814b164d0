"""What a run is made of: sizes, length and rate of training, and the order of its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIMS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Settings:
    """The same for every model, framework and granularity, so that nothing but the nesting differs."""

    hidden: int = 512
    epochs: int = 100
    batch: int = 64
    rate: float = 2e-3
    seed: int = 0

    def steps(self, examples: int) -> int:
        return self.epochs * (examples // min(self.batch, examples))

    def batches(self, examples: int) -> Iterator[NDArray[np.int64]]:
        """The rows of each batch: every epoch in a new order, all batches of one size."""
        rng, size = np.random.default_rng(self.seed), min(self.batch, examples)
        for _ in range(self.epochs):
            order = rng.permutation(examples)
            for start in range(0, examples - size + 1, size):
                yield order[start : start + size]


SETTINGS = {
    "digits": Settings(),
    "fashion-mnist": Settings(hidden=256, epochs=5, batch=256, rate=2e-3),
}
