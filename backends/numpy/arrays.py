"""NumPy arrays to and from themselves; bfloat16 comes from ``ml_dtypes`` where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl.heads import Head, head_leaves


def from_numpy(array: Any, *, dtype: str | None, device: Any) -> np.ndarray:
    if device not in (None, "cpu"):
        raise ValueError("NumPy computes on the CPU only")
    with np.errstate(under="ignore", over="ignore"):  # rounding to a narrower dtype is what is asked for
        return np.asarray(array, None if dtype is None else _dtype(dtype))


def to_numpy(array: np.ndarray, *, blocking: bool) -> np.ndarray:
    return np.asarray(array)  # of a scalar too


def devices() -> tuple[str, ...]:
    return ("cpu",)


def accumulation_dtype(z: np.ndarray, head: Head) -> np.dtype:
    """float32, or float64 where ``z`` or the head has it."""
    return wide_dtype(z, *head_leaves(head))


def wide_dtype(*arrays: np.ndarray) -> np.dtype:
    """float32, or float64 where one of them is."""
    return np.dtype(np.float64 if any(x.dtype == np.float64 for x in arrays) else np.float32)


def _dtype(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("NumPy has no bfloat16 of its own; run pip install ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)
