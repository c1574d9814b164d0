"""The accuracy of every granularity: ranks, ties, and what is not counted."""

import math

import numpy as np
import pytest

import mrl
from mrl import spec

LOGITS = np.array(
    [[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [1.0, 1.0, 1.0]], [[0.0, 0.2, 0.3], [0.9, 0.1, 0.8], [0.0, math.nan, 0.0]]],
    np.float32,
)
LABELS = np.array([0, 1, 2], np.int32)


def test_by_hand(backend_name: str) -> None:
    """Of the equal logits 0.1 the first comes first, and of three equal ones the last is third; NaN is wrong."""
    logits, labels = mrl.convert((LOGITS, LABELS), backend_name)
    found = mrl.convert(mrl.nested_accuracy(logits, labels, topk=(1, 2, 3, 9)), "numpy")
    np.testing.assert_allclose(found, [[1 / 3, 1 / 3, 1, 1], [0, 0, 2 / 3, 2 / 3]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("ignore_index", [None, 2, -1])
def test_is_the_specification(backend_name: str, ignore_index: int | None) -> None:
    rng = np.random.default_rng(3)
    logits = rng.integers(-3, 3, (3, 4, 5, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (4, 5)).astype(np.int32)
    if ignore_index == -1:
        labels[1] = -1
    found = mrl.nested_accuracy(*mrl.convert((logits, labels), backend_name), (1, 3, 5), ignore_index=ignore_index)
    expected = spec.nested_accuracy(logits, labels, topk=(1, 3, 5), ignore_index=ignore_index)
    np.testing.assert_allclose(mrl.convert(found, "numpy"), expected, rtol=1e-6)


def test_of_nothing_it_is_zero(backend_name: str) -> None:
    logits, labels = mrl.convert((LOGITS, np.full(3, -100, np.int32)), backend_name)
    assert not np.any(mrl.convert(mrl.nested_accuracy(logits, labels, ignore_index=-100), "numpy"))
    empty = mrl.convert((np.zeros((2, 0, 3), np.float32), np.zeros(0, np.int32)), backend_name)
    assert not np.any(mrl.convert(mrl.nested_accuracy(*empty), "numpy"))


def test_it_carries_no_gradient(backend_torch: None) -> None:
    import torch

    assert not mrl.nested_accuracy(torch.ones(1, 2, 3, requires_grad=True), torch.tensor([0, 1])).requires_grad


def test_labels_that_nobody_sees(backend_jax: None) -> None:
    import jax
    import jax.numpy as jnp

    found = jax.jit(mrl.nested_accuracy)(jnp.asarray(LOGITS), jnp.asarray([0, 3, 1]))
    assert np.isnan(np.asarray(found)).all()


BAD = [
    ("one axis", {"logits": (3,)}, ValueError, r"logits: expected a known shape \(G, \.\.\., C\)"),
    ("no class", {"logits": (2, 3, 0)}, ValueError, r"logits: expected a known shape"),
    ("few labels", {"labels": [0, 1]}, ValueError, r"labels: expected shape \(3,\)"),
    ("a label past the classes", {"labels": [0, 1, 3]}, ValueError, r"labels: expected values in \[0, 3\), got 3"),
    ("no k", {"topk": ()}, TypeError, r"topk: expected a sequence of integers"),
    ("one k alone", {"topk": 5}, TypeError, r"topk: expected a sequence of integers, got 5; write \(1, 5\)"),
    ("k of zero", {"topk": (1, 0)}, ValueError, r"topk\[1\]: expected an integer of at least 1, got 0"),
    ("half a k", {"topk": (1.5,)}, TypeError, r"topk\[0\]: expected an integer"),
]


@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_refuses(backend_name: str, change: dict, error: type, message: str) -> None:
    logits = np.zeros(change.get("logits", (2, 3, 3)), np.float32)
    labels = np.array(change.get("labels", [0, 1, 2]), np.int32)
    with pytest.raises(error, match=message):
        mrl.nested_accuracy(*mrl.convert((logits, labels), backend_name), change.get("topk", (1,)))
