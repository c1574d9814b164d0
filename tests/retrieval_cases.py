"""What the tests of retrieval share: numbers whose scores are exact, and how results are compared."""

from typing import Any

import numpy as np

import mrl
from mrl.dispatch import backend_named
from mrl.retrieval.prepared import SearchResult


def array(name: str, values: Any, dtype: str | None = None) -> Any:
    return backend_named(name).from_numpy(np.asarray(values), dtype=dtype, device=None)


def host(x: Any) -> np.ndarray:
    return np.asarray(mrl.convert(x, "numpy"))


def integers(rows: int, width: int, seed: int, most: int = 2) -> np.ndarray:
    """Of which every product and every distance is exact, and many are equal."""
    return np.random.default_rng(seed).integers(-most, most + 1, (rows, width)).astype(np.float32)


def single(rows: int, width: int, seed: int) -> np.ndarray:
    """Rows of one power of two, of which every cosine is exact."""
    rng = np.random.default_rng(seed)
    values = rng.choice((-2.0, -1.0, 1.0, 4.0), (rows, 1))
    return np.where(np.arange(width) == rng.integers(0, width, (rows, 1)), values, 0.0).astype(np.float32)


def same(found: SearchResult, expected: SearchResult, **tolerance: float) -> None:
    np.testing.assert_array_equal(host(found.indices), expected.indices)
    np.testing.assert_allclose(host(found.scores), expected.scores, **{"rtol": 1e-6, "atol": 1e-6, **tolerance})
