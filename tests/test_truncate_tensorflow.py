"""``truncate`` at the ends of every dtype's range, eager, in a graph and under XLA, which divides by reciprocals."""

import numpy as np
import pytest

import mrl
from mrl import spec
from mrl.testing.bounds import gamma
from mrl.testing.problems import SMALLEST, UNIT_ROUNDOFF

MODES = pytest.mark.parametrize("jit_compile", [None, False, True])
LARGEST = {"float16": 65504.0, "bfloat16": 3.3e38, "float32": 3.4e38, "float64": 8e307}
SCALES = (1e38, 2.0**61, 2.0**41, 2.0**40, 1.0, 2e-12, 1e-20, 1e-38)


@pytest.fixture(autouse=True)
def _tensorflow(backend_tensorflow):
    pass


def value_and_gradient(z, dim, jit_compile):
    import tensorflow as tf

    def run(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            prefix = mrl.truncate(z, dim)
            first = tf.reduce_sum(prefix[..., 0])
        return prefix, tape.gradient(first, z)

    return (run if jit_compile is None else tf.function(run, jit_compile=jit_compile))(z)


@MODES
@pytest.mark.parametrize("dim", [2, 3000])  # of which the squares add up
@pytest.mark.parametrize("dtype", list(LARGEST))
def test_norms_of_any_size(dtype, dim, jit_compile):
    import tensorflow as tf

    scales = [LARGEST[dtype], *(scale for scale in SCALES if scale <= LARGEST[dtype])]
    rows = np.array(scales)[:, None] * np.linspace(1, -0.25, dim)
    rows[0] = LARGEST[dtype] / (2 * dim if dtype == "float64" else 1)  # float64 alone has no wider one to norm it in
    z = tf.cast(tf.constant(rows), dtype)
    exact = tf.cast(z, tf.float64).numpy()
    prefix, gradient = (tf.cast(x, tf.float64).numpy() for x in value_and_gradient(z, dim, jit_compile))
    expected, upstream = spec.truncate(exact, dim), np.eye(1, dim)
    assert np.any(expected[0])
    u = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    error = (gamma(dim + 8, u) + UNIT_ROUNDOFF[dtype]) * np.abs(expected) + SMALLEST[dtype]
    assert np.all(np.abs(prefix - expected) <= error)
    derivative = spec.truncate_vjp(exact, dim, np.broadcast_to(upstream, exact.shape))
    kept = np.abs(derivative).max(-1) < LARGEST[dtype] / 2  # float16 has no number for the others
    size = np.abs(derivative) + np.abs(expected * expected[:, :1] * np.abs(derivative).max(-1, keepdims=True)) + 1e-300
    error = (gamma(3 * dim + 24, u) + 2 * UNIT_ROUNDOFF[dtype]) * size + 4 * SMALLEST[dtype]
    assert np.all((np.abs(gradient - derivative) <= error)[kept])


@MODES
@pytest.mark.parametrize("value", [1e38, 3e38])
def test_a_reciprocal_that_would_vanish(value, jit_compile):
    import tensorflow as tf

    prefix, _ = value_and_gradient(tf.fill([1, 4], value), 2, jit_compile)
    np.testing.assert_allclose(prefix, [[0.5**0.5] * 2], rtol=1e-6)
