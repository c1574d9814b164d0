"""TensorFlow's half precision: factors are widened, so that nothing is lost but the last rounding of each gradient."""

import numpy as np
import pytest

import mrl
from mrl import spec

HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
FUSED = pytest.mark.parametrize("fused", [True, False])
NESTING = mrl.Nesting((8, 16, 48), weights=(1.0, 0.5, 2.0))


@pytest.fixture(autouse=True)
def _tensorflow(backend_tensorflow):
    pass


def problem(seed, *dtypes):
    """Embeddings and a head rounded to dtypes, and the gradients of the specification for them as they are."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    rows, classes = rng.integers(5, 40, 2)
    shapes = [(rows, 48), (classes, 48), (classes,)]
    arrays = [tf.cast(tf.constant(rng.normal(size=shape)), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    labels = rng.integers(0, classes, rows)
    exact = [tf.cast(x, tf.float64).numpy() for x in arrays]
    dz, dhead = spec.nested_cross_entropy_vjp(exact[0], mrl.TiedHead(*exact[1:]), labels, NESTING, 1.0)
    return arrays, tf.constant(labels), [dz, *dhead]


def gradients(loss, arrays):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(arrays)
        total = loss(*arrays)
    return tape.gradient(total, arrays)


def error(found, exact):
    import tensorflow as tf

    return np.array([np.abs(tf.cast(x, tf.float64).numpy() - y).max() for x, y in zip(found, exact, strict=True)])


@FUSED
@HALVES
def test_gradients_are_no_worse_than_those_of_a_head_in_half_precision(dtype, fused):
    import tensorflow as tf

    worse = []
    for seed in range(8):
        arrays, labels, exact = problem(seed, dtype, dtype, dtype)

        def ours(z, weight, bias, labels=labels):
            return mrl.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, NESTING, fused=fused).total

        def composed(z, weight, bias, labels=labels):
            levels = [tf.matmul(z[:, :m], weight[:, :m], transpose_b=True) + bias for m in NESTING.dims]
            losses = [tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(x, tf.float32)) for x in levels]
            return tf.add_n([w * tf.reduce_mean(x) for w, x in zip(NESTING.weights, losses, strict=True)])

        found = gradients(ours, arrays)
        assert [x.dtype for x in found] == [x.dtype for x in arrays]
        worse.append(error(found, exact) / error(gradients(composed, arrays), exact))
    assert np.max(worse) <= 1


@FUSED
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32", "float32"), ("float16", "bfloat16", "float32")])
def test_dtypes_that_differ_are_promoted(dtypes, fused):
    """As exact as if all were the wide one; each gradient in its own dtype."""
    import tensorflow as tf

    arrays, labels, _ = problem(0, *dtypes)

    def loss(z, weight, bias):
        return mrl.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, NESTING, fused=fused).total

    assert loss(*arrays).dtype == tf.float32
    found = gradients(loss, arrays)
    wide = gradients(loss, [tf.cast(x, tf.float32) for x in arrays])
    for x, y, dtype in zip(found, wide, dtypes, strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(tf.cast(x, tf.float32), tf.cast(tf.cast(y, dtype), tf.float32))


@FUSED
def test_a_scaled_loss_keeps_what_float16_would_lose(fused):
    """What a LossScaleOptimizer does: gradients are scaled before they are rounded."""
    import tensorflow as tf

    arrays, labels, exact = problem(1, "float16", "float16", "float16")
    small, scale = 2.0**-20, 2.0**20

    def loss(z, weight, bias):
        return small * mrl.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, NESTING, fused=fused).total

    plain = gradients(loss, arrays)
    scaled = gradients(lambda *arrays: scale * loss(*arrays), arrays)
    rounding = 2.0**-11 * np.array([np.abs(x).max() for x in exact])
    assert np.all(error(scaled, exact) <= 1.5 * rounding)
    assert np.all(error([tf.cast(x, tf.float64) / small for x in plain], exact) > 10 * rounding)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float32"])
def test_variables_follow_the_policy_of_a_keras_layer(policy):
    """Within a layer's call a variable is what its policy computes in, and its gradient reaches the one it stores."""
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.fail("the tests of TensorFlow need KERAS_BACKEND=tensorflow")
    seen = []

    class Head(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(5, shape[-1]), initializer="glorot_uniform", name="kernel")

        def call(self, z):
            seen.append((z.dtype, self.kernel.value.dtype))
            return mrl.nested_logits(z, mrl.TiedHead(self.kernel), NESTING)

    layer = Head(dtype=policy)
    with tf.GradientTape() as tape:
        logits = layer(tf.random.stateless_normal([3, 48], (0, 1)))
        total = tf.reduce_sum(tf.cast(logits, tf.float32))
    compute = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16, "float32": tf.float32}[policy]
    assert seen == [(compute, compute)]
    assert tape.gradient(total, layer.kernel.value).dtype == tf.float32
