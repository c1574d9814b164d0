"""What the tests of cascades share: a small problem for one policy, and levels of a classifier to fit one on."""

import numpy as np
import pytest

import mrl
from mrl.dispatch import backend_named

RNG = np.random.default_rng(11)
Z = RNG.normal(size=(23, 7)).astype(np.float32)
WEIGHT, BIAS = RNG.normal(size=(5, 7)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
DIMS = (2, 3, 6)
POLICY = mrl.CascadePolicy((0.7, 0.5), DIMS, temperatures=(1.0, 0.5, 1.0))
TIED = mrl.TiedHead(WEIGHT, BIAS)
NESTED = mrl.NestedHead(tuple(RNG.normal(size=(5, m)).astype(np.float32) for m in DIMS))
HEADS = pytest.mark.parametrize("head", [TIED, NESTED], ids=["tied", "nested"])


def host(result: mrl.CascadeResult) -> list[np.ndarray]:
    return [np.asarray(backend_named(name_of(x)).to_numpy(x, blocking=True)) for x in result]


def name_of(x) -> str:
    return {"jaxlib": "jax"}.get(type(x).__module__.partition(".")[0], type(x).__module__.partition(".")[0])


def same(result, expected) -> None:
    labels, level, confidence = host(result)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(level, expected.level)
    np.testing.assert_allclose(confidence, expected.confidence, rtol=2e-5, atol=2e-6)


def softmax_outputs(examples: int, levels: int, *, classes: int = 5, seed: int = 0):
    """Levels that get better, on examples some of which are harder."""
    rng = np.random.default_rng(seed)
    labels, ease = rng.integers(0, classes, examples), rng.normal(size=examples)
    probabilities = []
    for g in range(levels):
        logits = rng.normal(size=(examples, classes)) * 1.5
        logits[np.arange(examples), labels] += 1 + 0.6 * g + ease
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        probabilities.append(np.exp(logits))
    return np.stack(probabilities), labels
