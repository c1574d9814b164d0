"""The sizes that are measured, and their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import mrl

MODES = {"torch": ("eager",), "jax": ("jit",), "tensorflow": ("tf.function", "tf.function + XLA")}


@dataclass(frozen=True)
class Size:
    """One classifier: ``rows`` examples, ``classes``, and a nesting that doubles up to ``width``."""

    name: str
    rows: int
    classes: int
    width: int
    smallest: int = 8
    tied: bool = True
    dtype: str = "float32"

    @property
    def nesting(self) -> mrl.Nesting:
        return mrl.Nesting.doubling(self.smallest, self.width)

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, Any, np.ndarray]:
        """Embeddings, a head with biases, labels; float32."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(self.rows, self.width)).astype(np.float32)
        head = mrl.init_head(self.nesting, self.classes, tied=self.tied, backend="numpy", seed=seed)
        return z, head, rng.integers(0, self.classes, self.rows).astype(np.int32)


SIZES = (
    Size("tied", 256, 1000, 2048),
    Size("tied, 10,000 classes", 512, 10_000, 2048),
    Size("tied, 4096 rows", 4096, 1000, 2048),
    Size("untied", 256, 1000, 2048, tied=False),
    Size("small", 32, 100, 256),
    Size("tied, bfloat16", 256, 1000, 2048, dtype="bfloat16"),
    Size("tied, float16", 256, 1000, 2048, dtype="float16"),
)
ON_A_DEVICE = (Size("tied", 8192, 1000, 2048), Size("tied, 32,768 classes", 8192, 32_768, 2048))
QUICK = (
    Size("tied", 64, 100, 256),
    Size("untied", 64, 100, 256, tied=False),
    Size("small", 32, 20, 64, dtype="bfloat16"),
)

MASKED_LM = Size("masked LM", 4096, 30_522, 768, smallest=12)  # 7 levels
MEMORY = (SIZES[0], MASKED_LM)
QUICK_MEMORY = (SIZES[0],)

BASE = Size("base", 256, 1000, 1024)
GROWTH = {"levels": (1, 2, 4, 6, 8), "classes": (125, 500, 2000, 8000), "width": (256, 512, 1024, 2048)}
QUICK_GROWTH = {"levels": (1, 5), "classes": (50, 200), "width": (64, 256)}
"""One of levels, classes and dimensions varies, the others stay those of the base."""
