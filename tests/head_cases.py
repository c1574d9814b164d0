"""Heads with every kind of number, for the tests of files and layouts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import mrl
from mrl.heads import Head, head_leaves

HALF = "bfloat16" if find_spec("ml_dtypes") else "float16"
"""NumPy has no bfloat16 of its own."""

DTYPES = tuple(dict.fromkeys(("float16", HALF, "float32", "float64")))
NESTING = mrl.Nesting((2, 5), weights=(0.1, 2.0))


def head_of(dtype: str, tied: bool, bias: bool, nesting: mrl.Nesting = NESTING, classes: int = 3) -> Head:
    head = mrl.init_head(nesting, classes, tied=tied, backend="numpy", seed=7, dtype=dtype)
    return head if bias else type(head)(head[0])


def bits(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return native.dtype.name, native.shape, native.tobytes()


def assert_same(found: Head, expected: Head) -> None:
    """Bit for bit: NaN, signs of zeros, subnormals."""
    assert type(found) is type(expected) and (found[1] is None) == (expected[1] is None)
    assert [bits(leaf) for leaf in head_leaves(found)] == [bits(leaf) for leaf in head_leaves(expected)]
