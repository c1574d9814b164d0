"""Arrays in wrappers, NumPy's beside a framework's, sequences of matrices: taken with their gradients, or refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transform_cases import CLOSE, FUSED, HEAD, LABELS, LOSS, NESTING, Z

import mrl
from mrl import spec

WEIGHTS = tuple(HEAD.weight[:, :m] for m in NESTING.dims)
BIASES = (HEAD.bias,) * len(NESTING)
SAMPLES = np.array([0.5, 0.0, 2.0, 1.25], np.float32)
GRADIENTS = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, 1.0)


def flatten(gradients):
    dz, dhead = gradients
    return [dz, *(x for field in dhead for x in (field if isinstance(field, tuple) else [field]))]


def close(found, expected):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(x), y, **CLOSE)


def test_variables_of_keras(framework_name):
    """Under each of its backends, in a process of its own: values and gradients of every public function."""
    environment = {**os.environ, "KERAS_BACKEND": framework_name, "TF_CPP_MIN_LOG_LEVEL": "3"}
    script = Path(__file__).with_name("wrapped_keras.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@FUSED
def test_variables_of_flax(backend_jax, fused):
    import jax
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            self.weight, self.bias = nnx.Param(jax.numpy.asarray(HEAD.weight)), nnx.Param(jax.numpy.asarray(HEAD.bias))
            self.z = nnx.Param(jax.numpy.asarray(Z))

        def __call__(self, labels):
            head = mrl.TiedHead(self.weight, self.bias)
            return mrl.nested_cross_entropy(self.z, head, labels, NESTING, fused=fused).total

    model, labels = Model(), nnx.Variable(jax.numpy.asarray(LABELS))
    for transform in (lambda f: f, nnx.jit):
        value, gradients = transform(nnx.value_and_grad(lambda model, labels: model(labels)))(model, labels)
        np.testing.assert_allclose(value, LOSS.total, **CLOSE)
        close((gradients[name][...] for name in ("z", "weight", "bias")), flatten(GRADIENTS))
    policy = mrl.CascadePolicy((0.5, 0.5), NESTING.dims)
    head = mrl.TiedHead(model.weight, model.bias)
    logits = mrl.nested_logits(model.z, head, NESTING)
    close([logits, mrl.truncate(model.z, 2)], [spec.nested_logits(Z, HEAD, NESTING), spec.truncate(Z, 2)])
    close(mrl.cascade_predict(model.z, head, policy)[:2], spec.cascade_predict(Z, HEAD, policy)[:2])
    close(mrl.cascade_exit(nnx.Variable(logits), policy, logits=True)[:2], spec.cascade_predict(Z, HEAD, policy)[:2])
    close([mrl.nested_accuracy(nnx.Variable(logits), labels)], [spec.nested_accuracy(logits, LABELS)])
    close(mrl.convert(head, "numpy"), HEAD)


@FUSED
def test_numpy_beside_jax(backend_jax, fused):
    import jax

    def loss(z, **options):
        return mrl.nested_cross_entropy(z, HEAD, LABELS, NESTING, fused=fused, **options).total

    gradient = flatten(GRADIENTS)[0]
    for run in (jax.value_and_grad(loss), jax.jit(jax.value_and_grad(loss))):
        close(run(jax.numpy.asarray(Z)), (LOSS.total, gradient))
    expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, sample_weight=SAMPLES).total
    np.testing.assert_allclose(loss(jax.numpy.asarray(Z), sample_weight=SAMPLES), expected, **CLOSE)
    assert isinstance(mrl.nested_logits(Z, mrl.convert(HEAD, "jax"), NESTING), jax.Array)


@FUSED
def test_numpy_beside_tensorflow(backend_tensorflow, fused):
    import tensorflow as tf

    def run(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            total = mrl.nested_cross_entropy(z, HEAD, LABELS, NESTING, fused=fused).total
        return total, tape.gradient(total, z)

    gradient = flatten(GRADIENTS)[0]
    for compiled in (run, tf.function(run), tf.function(run, jit_compile=True)):
        close(compiled(tf.constant(Z)), (LOSS.total, gradient))
    expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, sample_weight=SAMPLES).total
    found = mrl.nested_cross_entropy(tf.constant(Z), HEAD, LABELS, NESTING, sample_weight=SAMPLES, fused=fused).total
    np.testing.assert_allclose(found, expected, **CLOSE)
    policy, head = mrl.CascadePolicy((0.5, 0.5), NESTING.dims), mrl.convert(HEAD, "tensorflow")
    close(mrl.cascade_predict(Z, head, policy)[:2], spec.cascade_predict(Z, HEAD, policy)[:2])
    logits = mrl.nested_logits(Z, head, NESTING)
    assert tf.is_tensor(logits)
    close([mrl.nested_accuracy(logits, LABELS)], [spec.nested_accuracy(logits, LABELS)])


def test_numpy_beside_torch_is_refused(backend_torch):
    z, head = mrl.convert(Z, "torch"), mrl.convert(HEAD, "torch")
    calls = [
        lambda: mrl.nested_cross_entropy(z, head, LABELS, NESTING),
        lambda: mrl.nested_logits(z, HEAD, NESTING),
        lambda: mrl.nested_accuracy(mrl.nested_logits(z, head, NESTING), LABELS),
        lambda: mrl.cascade_predict(Z, head, mrl.CascadePolicy((0.5, 0.5), NESTING.dims)),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"expected arrays of one framework, got .*numpy\.ndarray.*; .*mrl\.convert"
        ):
            call()


@FUSED
def test_sequences_of_parameters(backend_torch, fused):
    import torch

    z, labels = mrl.convert(Z, "torch").requires_grad_(), mrl.convert(LABELS, "torch").long()
    gradients = flatten(spec.nested_cross_entropy_vjp(Z, mrl.NestedHead(WEIGHTS, BIASES), LABELS, NESTING, 1.0))
    for kind in (torch.nn.ParameterList, list, tuple):
        weights, biases = (kind([torch.nn.Parameter(torch.tensor(x)) for x in group]) for group in (WEIGHTS, BIASES))
        head, z.grad = mrl.NestedHead(weights, biases), None
        mrl.nested_cross_entropy(z, head, labels, NESTING, fused=fused).total.backward()
        close([x.grad for x in (z, *weights, *biases)], gradients)
        found = mrl.nested_logits(z, head, NESTING).detach()
        close([found], [spec.nested_logits(Z, HEAD, NESTING)])


def test_masked_arrays_are_refused():
    masked = np.ma.masked_array(Z, np.zeros_like(Z, bool))
    head, policy = mrl.TiedHead(np.ma.masked_array(HEAD.weight)), mrl.CascadePolicy((0.5, 0.5), NESTING.dims)
    logits = np.ma.masked_array(spec.nested_logits(Z, HEAD, NESTING))
    calls = {
        "z": [
            lambda: mrl.truncate(masked, 2),
            lambda: mrl.nested_logits(masked, HEAD, NESTING),
            lambda: mrl.nested(np.sum, NESTING)(masked),
            lambda: mrl.cascade_predict(masked, HEAD, policy),
        ],
        "head.weight": [lambda: mrl.nested_cross_entropy(Z, head, LABELS, NESTING)],
        "labels": [lambda: mrl.nested_cross_entropy(Z, HEAD, np.ma.masked_array(LABELS), NESTING)],
        "sample_weight": [
            lambda: mrl.nested_cross_entropy(Z, HEAD, LABELS, NESTING, sample_weight=np.ma.masked_array(SAMPLES))
        ],
        "logits": [lambda: mrl.nested_accuracy(logits, LABELS)],
        "probabilities": [lambda: mrl.cascade_exit(logits, policy, logits=True)],
    }
    for name, group in calls.items():
        for call in group:
            with pytest.raises(TypeError, match=rf"{name}: expected an array without a mask"):
                call()


def test_masked_arrays_are_refused_beside_others(backend_name):
    z, head = mrl.convert(Z, backend_name), mrl.convert(HEAD, backend_name)
    with pytest.raises(TypeError, match="labels: expected an array without a mask"):
        mrl.nested_cross_entropy(z, head, np.ma.masked_array(LABELS), NESTING)


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, -(2**32)])
def test_numpy_labels_past_32_bits_do_not_wrap_around(backend_jax: None, label: int) -> None:
    import jax.numpy as jnp

    head, labels = mrl.TiedHead(jnp.ones((3, 2))), np.array([0, label])
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 3\), got -?\d+ at position 1"):
        mrl.nested_cross_entropy(jnp.ones((2, 2)), head, labels, mrl.Nesting((1, 2)))
