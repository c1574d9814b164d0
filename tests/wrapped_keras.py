"""Run by test_wrapped.py in a process of its own, because Keras decides on its backend once: every public function."""

import os

import keras
import numpy as np

import mrl
from mrl import spec

RNG = np.random.default_rng(3)
NESTING = mrl.Nesting((2, 4))
Z, WEIGHT, BIAS = (RNG.normal(size=shape).astype(np.float32) for shape in ((6, 4), (3, 4), 3))
LABELS = np.array([0, 2, 1, 1, 0, 2], np.int32)
HEAD = mrl.TiedHead(WEIGHT, BIAS)
CLOSE = {"rtol": 2e-5, "atol": 2e-6}

z, weight, bias = (keras.Variable(x) for x in (Z, WEIGHT, BIAS))
labels = keras.Variable(LABELS, dtype="int32", trainable=False)
samples = keras.Variable(np.arange(6.0), dtype="float32", trainable=False)
head = mrl.TiedHead(weight, bias)
untied = mrl.NestedHead([keras.Variable(WEIGHT[:, :m]) for m in NESTING.dims])


def same(value, expected):
    np.testing.assert_allclose(keras.ops.convert_to_numpy(value), expected, **CLOSE)


def loss(fused=True):
    return mrl.nested_cross_entropy(z, head, labels, NESTING, sample_weight=samples, fused=fused).total


def gradients(fused):
    variables = [z, weight, bias]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = loss(fused)
        return tape.gradient(total, [variable.value for variable in variables])
    if keras.backend.backend() == "torch":
        for variable in variables:
            variable.value.grad = None
        loss(fused).backward()
        return [variable.value.grad for variable in variables]
    import jax

    def stateless(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss(fused)

    return jax.jit(jax.grad(stateless))([variable.value for variable in variables])


assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
options = {"sample_weight": np.arange(6.0)}
for fused in (True, False):
    same(loss(fused), spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, **options).total)
    dz, dhead = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, 1.0, **options)
    for gradient, expected in zip(gradients(fused), (dz, *dhead), strict=True):
        same(gradient, expected)

LOGITS = spec.nested_logits(Z, HEAD, NESTING)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
logits, shares = (keras.Variable(x, dtype="float32") for x in (LOGITS, SHARES))
policy = mrl.CascadePolicy((0.6,), NESTING.dims)
same(mrl.truncate(z, 2), spec.truncate(Z, 2))
same(mrl.nested_logits(z, head, NESTING), LOGITS)
same(mrl.nested_logits(z, untied, NESTING), LOGITS - BIAS)
same(mrl.nested(lambda x: x[..., 0], NESTING)(z), 2 * Z[:, 0])
same(mrl.nested_accuracy(logits, labels, (1, 2)), spec.nested_accuracy(LOGITS, LABELS, topk=(1, 2)))
same(mrl.cascade_exit(shares, policy).labels, spec.cascade_exit(SHARES, policy).labels)
same(mrl.cascade_predict(z, head, policy).labels, spec.cascade_predict(Z, HEAD, policy).labels)
fitted = mrl.fit_cascade(shares, labels, NESTING)
assert fitted == mrl.fit_cascade(SHARES.astype(np.float32), LABELS, NESTING)
assert mrl.fit_temperatures(logits, labels) == mrl.fit_temperatures(LOGITS.astype(np.float32), LABELS)
report = mrl.cascade_report(shares, labels, fitted)
assert report.accuracy == mrl.cascade_report(SHARES.astype(np.float32), LABELS, fitted).accuracy
for leaf, expected in zip(mrl.convert(head, "numpy"), HEAD, strict=True):
    assert type(leaf) is np.ndarray
    same(leaf, expected)
