"""The checks of ``mrl.adapters.keras``, run by test_adapter_keras.py in processes of their own, one a backend of Keras.

``python adapter_keras_worker.py FOLDER`` runs every ``check_...`` and prints, as JSON, what each of them found wrong.
``--load`` runs those that need what another process saved in the folder.
"""

import contextlib
import json
import os
import re
import sys
import time
import traceback
import warnings
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops
from mrl.adapters.keras import (
    GranularityAccuracy,
    MatryoshkaHead,
    MatryoshkaModel,
    NestedCategoricalCrossentropy,
    NestedSparseCategoricalCrossentropy,
)

import mrl
from mrl import spec

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
BACKEND = os.environ.get("KERAS_BACKEND", "")
NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, CLASSES = 10, 7, 4
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # float32, a few dozen roundings
# The quickest way to a few steps: JAX compiles one operation after the other otherwise.
EAGER = {"run_eagerly": BACKEND != "jax"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, WIDTH)).astype("float32")
Z = RNG.normal(size=(ROWS, NESTING.width)).astype("float32")
LABELS = np.array([0, 3, 1, 1, 2, 0, 3, 3, 2, 1])
SAMPLES = np.linspace(0.25, 2.0, ROWS).astype("float32")
SOFT = RNG.dirichlet(np.ones(CLASSES), size=ROWS).astype("float32")


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def same(found, expected, **close):
    np.testing.assert_allclose(array(found), expected, **(close or CLOSE))


def encoder(**kw):
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(NESTING.width, activation="tanh", **kw)])


def made(tied=False, seed=3, **kw):
    keras.utils.set_random_seed(seed)
    model = MatryoshkaModel(encoder(), NESTING, CLASSES, tied=tied, **kw)
    model.build((None, WIDTH))
    return model


def host(layer):
    return mrl.convert(layer.head, "numpy")


def mean_of(model, x=X, labels=LABELS, sample_weight=None, **options):
    """Keras' mean, from the specification: the sum over the examples in use, divided by their number."""
    z, ignored = array(model.encoder(x)), options.get("ignore_index")
    used = len(labels) if ignored is None else int((labels != ignored).sum())
    if sample_weight is not None:
        options["sample_weight"] = sample_weight
    return spec.nested_cross_entropy(z, host(model.head), labels, NESTING, reduction="sum", **options).total / used


def check_head_computes_what_the_functions_compute():
    for tied in (False, True):
        for use_bias in (False, True):
            layer = MatryoshkaHead(NESTING, CLASSES, tied=tied, use_bias=use_bias, bias_initializer="random_normal")
            logits = layer(Z)
            assert type(layer.head) is (mrl.TiedHead if tied else mrl.NestedHead)
            expected = spec.nested_logits(Z, host(layer), NESTING)
            same(logits, np.moveaxis(expected, 0, 1))
            assert layer.compute_output_shape(Z.shape) == tuple(logits.shape) == (ROWS, 3, CLASSES)
            for g, dim in enumerate(NESTING.dims):
                same(layer(Z, dim=dim), expected[g])
                same(layer.at(dim)(Z[:, :dim]), expected[g])
                np.testing.assert_array_equal(array(layer.predict(Z, dim)), expected[g].argmax(-1))
                assert layer.compute_output_shape(Z.shape, dim=dim) == (ROWS, CLASSES)
            np.testing.assert_array_equal(array(layer.predict(Z)), expected[-1].argmax(-1))
            leading = layer(Z.reshape(2, 5, -1))
            assert tuple(leading.shape) == (2, 5, 3, CLASSES)
            same(leading, np.moveaxis(expected, 0, 1).reshape(2, 5, 3, CLASSES))
            loss = layer.loss(Z, ops.convert_to_tensor(LABELS, dtype="int32"))
            same(loss.total, spec.nested_cross_entropy(Z, host(layer), LABELS, NESTING).total)
            again = MatryoshkaHead.from_head(host(layer), NESTING)
            np.testing.assert_array_equal(array(again(Z)), array(logits))
            assert all(a is not b for a, b in zip(again.weights, layer.weights, strict=True))


def check_matrices():
    layers = {tied: MatryoshkaHead(NESTING, CLASSES, tied=tied) for tied in (False, True)}
    for layer in layers.values():
        layer.build((None, NESTING.width))
    shapes = [tuple(weight.shape) for weight in layers[False].weights]
    assert shapes == [(4, 2), (4, 3), (4, 5), (4,), (4,), (4,)]
    assert [tuple(weight.shape) for weight in layers[True].weights] == [(4, 5), (4,)]
    ones = keras.initializers.VarianceScaling(distribution="uniform", seed=1)  # whose spread is by rows of a kernel
    drawn, dense = (
        MatryoshkaHead(NESTING, 40, tied=True, kernel_initializer=ones),
        keras.layers.Dense(40, kernel_initializer=ones),
    )
    drawn.build((None, 5)), dense.build((None, 5))
    same(drawn.kernels[0], array(dense.kernel).T)
    first, second, _ = (array(kernel) for kernel in layers[False].kernels)
    assert not np.isin(first, second).any(), "each is drawn anew"
    dtype = "float32" if BACKEND == "jax" else "float64"
    wide = MatryoshkaHead.from_head(mrl.TiedHead(RNG.normal(size=(CLASSES, 9)).astype(dtype)), NESTING)
    logits = wide(RNG.normal(size=(2, 9)))
    assert wide.dtype == keras.backend.standardize_dtype(logits.dtype) == dtype
    assert tuple(logits.shape) == (2, 3, CLASSES)


def check_symbolic_inputs():
    z = keras.Input((NESTING.width,))
    layer = MatryoshkaHead(NESTING, CLASSES, dtype="mixed_bfloat16")
    logits, one = layer(z), layer(z, dim=3)
    assert (logits.shape, logits.dtype) == ((None, 3, CLASSES), "float32")
    assert (one.shape, one.dtype) == ((None, CLASSES), "float32")
    model = keras.Model(z, logits)
    same(model(Z), array(layer(Z)))
    assert made()(keras.Input((WIDTH,))).shape == (None, 3, CLASSES)


def logits_of(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, len(NESTING), CLASSES)).astype("float32")


def cross_entropies(logits, labels):
    """``(G, B)`` in float64; ``labels`` are class indices or probabilities."""
    s = np.moveaxis(logits.astype("float64"), 1, 0)
    log_p = s - np.log(np.exp(s).sum(-1, keepdims=True))
    return -(log_p * (labels if labels.ndim == 2 else np.eye(CLASSES)[labels])).sum(-1)


def check_sparse_loss():
    logits, w = logits_of(), np.array(NESTING.weights)
    rows = w @ cross_entropies(logits, LABELS)
    given = {"plain": LABELS, "float32": LABELS.astype("float32"), "(batch, 1)": LABELS[:, None].astype("float32")}
    for labels in given.values():
        loss = NestedSparseCategoricalCrossentropy(NESTING)
        same(loss(labels, logits), rows.mean())
        same(loss(labels, logits, SAMPLES), (rows * SAMPLES).mean())
        same(loss(labels, logits, SAMPLES[:, None]), (rows * SAMPLES).mean())
        same(loss.call(labels, ops.convert_to_tensor(logits)), rows)
    expected = {
        "sum": (rows * SAMPLES).sum(),
        "none": rows * SAMPLES,
        None: rows * SAMPLES,
        "mean_with_sample_weight": (rows * SAMPLES).sum() / SAMPLES.sum(),
    }
    for reduction, value in expected.items():
        same(NestedSparseCategoricalCrossentropy(NESTING, reduction=reduction)(LABELS, logits, SAMPLES), value)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    same(NestedSparseCategoricalCrossentropy(NESTING, from_logits=False)(LABELS, shares), rows.mean())
    for ignored in (1, -100, -1):
        labels = np.where(LABELS == 1, ignored, LABELS)
        loss = NestedSparseCategoricalCrossentropy(NESTING, ignore_class=ignored)
        same(loss(labels, logits), rows[LABELS != 1].mean())
        same(loss(labels, logits, SAMPLES), (rows * SAMPLES)[LABELS != 1].sum() / (LABELS != 1).sum())
        broken = np.where((LABELS == 1)[:, None, None], np.nan, logits)
        same(loss(labels, broken), rows[LABELS != 1].mean())
        assert float(loss(np.full(ROWS, ignored), logits)) == 0
    leading = NestedSparseCategoricalCrossentropy(NESTING)
    same(leading(LABELS.reshape(2, 5), logits.reshape(2, 5, 3, CLASSES)), rows.mean())
    sparse = mrl.Nesting(NESTING.dims, weights=(0.0, 0.0, 2.0))
    logits[:, :2] = np.nan  # of levels that are left out
    same(NestedSparseCategoricalCrossentropy(sparse)(LABELS, logits), 2 * cross_entropies(logits, LABELS)[2].mean())


def check_categorical_loss():
    logits, w = logits_of(), np.array(NESTING.weights)
    for labels in (np.eye(CLASSES)[LABELS], SOFT, np.eye(CLASSES, dtype="int32")[LABELS]):
        for smoothing in (0.0, 0.1):
            rows = w @ cross_entropies(logits, (1 - smoothing) * labels + smoothing / CLASSES)
            loss = NestedCategoricalCrossentropy(NESTING, label_smoothing=smoothing)
            same(loss(labels, logits), rows.mean())
            same(loss(labels, logits, SAMPLES), (rows * SAMPLES).mean())
            same(loss.call(labels, ops.convert_to_tensor(logits)), rows)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rows = w @ cross_entropies(logits, SOFT)
    same(
        NestedCategoricalCrossentropy(NESTING, from_logits=False, reduction="sum")(SOFT, shares), rows.sum(), rtol=1e-4
    )


def check_labels_that_are_no_class():
    logits, loss = logits_of()[:3], NestedSparseCategoricalCrossentropy(NESTING, ignore_class=-1)
    for wrong in (CLASSES, -2, 1.5, np.nan, 2.0**40):
        assert np.isnan(float(loss(np.array([0.0, wrong, 1.0], "float32"), logits))), wrong
    for call in (loss, GranularityAccuracy(3, NESTING)):
        with pytest.raises(TypeError, match="y_true: expected integers or float32, got bfloat16"):
            call(ops.cast(ops.convert_to_tensor([0.0, 1.0, 2.0]), "bfloat16"), logits)
    for shape in ((ROWS, 2), (ROWS, 1, 1)):
        with pytest.raises(ValueError, match="y_true: expected one class index per example, got shape"):
            NestedSparseCategoricalCrossentropy(NESTING)(np.zeros(shape), logits_of())
    model = made()
    model.compile("sgd", run_eagerly=BACKEND == "tensorflow")
    wrong = np.where(LABELS == 1, CLASSES, LABELS)
    if BACKEND == "jax":  # which traces the step, and sees no values
        assert np.isnan(model.train_on_batch(X, wrong)[0])
    else:
        with pytest.raises(ValueError, match=r"labels: expected values in \[0, 4\), got 4 at position 2"):
            model.train_on_batch(X, wrong)


def check_labels_beyond_what_a_half_holds():
    """300 classes, a logit of 3 for class 257 alone: as class 256 the loss would be 5.77."""
    right = np.log(299 + np.exp(3.0)) - 3
    assert abs(right - 2.7654592) < 1e-7
    nesting, logits = mrl.Nesting((2,)), np.zeros((1, 1, 300), "float32")
    logits[0, 0, 257] = 3
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for labels in (np.array([257]), np.array([[257.0]], "float32")):
            same(NestedSparseCategoricalCrossentropy(nesting)(labels, logits), right)
            same(NestedSparseCategoricalCrossentropy(nesting, dtype="mixed_bfloat16")(labels, logits), right)
            accuracy = GranularityAccuracy(2, nesting, dtype="mixed_bfloat16")
            assert float(accuracy(labels, ops.cast(ops.convert_to_tensor(logits), "bfloat16"))) == 1
        for fused in (True, False):
            model = MatryoshkaModel(keras.layers.Identity(), nesting, 300)
            model.build((None, 2))
            model.head.set_weights([np.zeros((300, 2)), logits[0, 0]])
            model.compile(
                keras.optimizers.SGD(0.0), loss=None if fused else NestedSparseCategoricalCrossentropy(nesting)
            )
            for labels in (np.array([257]), np.array([[257.0]], "float32")):
                found = model.fit(np.ones((1, 2)), labels, verbose=0).history
                same(found["loss"][0], right)
                assert found["accuracy_2"] == [1.0]
                loss, accuracy = model.evaluate(np.ones((1, 2)), labels, verbose=0)
                same(loss, right)
                assert accuracy == 1
    finally:
        keras.config.set_dtype_policy("float32")


def check_accuracy():
    logits = logits_of()
    hits = np.moveaxis(logits, 1, 0).argmax(-1) == LABELS
    for g, dim in enumerate(NESTING.dims):
        metric = GranularityAccuracy(dim, NESTING)
        assert metric.name == f"accuracy_{dim}"
        for labels in (LABELS, LABELS.astype("float32")[:, None], np.eye(CLASSES)[LABELS]):
            metric.reset_state()
            metric.update_state(labels[:4], logits[:4])
            metric.update_state(labels[4:], logits[4:])
            same(metric.result(), hits[g].mean())
            metric.reset_state()
            same(metric(labels, logits, SAMPLES), (hits[g] * SAMPLES).sum() / SAMPLES.sum())
        used = LABELS != 1
        metric = GranularityAccuracy(dim, NESTING, ignore_class=1)
        same(metric(LABELS, logits), hits[g][used].mean())
        metric.reset_state()
        weighted = (hits[g] * SAMPLES)[used].sum() / SAMPLES[used].sum()
        same(metric(LABELS, logits, SAMPLES[:, None]), weighted)
    level = GranularityAccuracy(2, mrl.Nesting((2,)))
    assert float(level([1, 0], [[[1.0, 1.0]], [[1.0, 1.0]]])) == 0.5, "of equals the lowest"
    level.reset_state()
    assert float(level([0, 1], [[[np.nan, np.nan]], [[0.0, 1.0]]])) == 0.5


def check_fit_is_the_loss_of_the_logits():
    """The same steps as a functional model with a loss on logits takes, of partial batches too, compiled or not."""
    cases = [
        ({}, LABELS.astype("float32"), None, NestedSparseCategoricalCrossentropy(NESTING)),
        (
            {"tied": True, "label_smoothing": 0.1},
            SOFT,
            SAMPLES,
            NestedCategoricalCrossentropy(NESTING, label_smoothing=0.1),
        ),
        ({"ignore_class": 1}, LABELS[:, None], SAMPLES, NestedSparseCategoricalCrossentropy(NESTING, ignore_class=1)),
    ]
    # Under PyTorch ``jit_compile`` is torch.compile, which takes half a minute for what JAX and TensorFlow do in two.
    modes = [{"jit_compile": False}, {"jit_compile": BACKEND != "torch"}, EAGER]
    for (options, labels, samples, loss), mode in zip(cases, modes, strict=True):
        fused, plain = made(**options), made(**options)
        inputs = keras.Input((WIDTH,))
        plain = keras.Model(inputs, plain.head(plain.encoder(inputs)))
        fused.compile(keras.optimizers.SGD(0.1), **mode)
        plain.compile(keras.optimizers.SGD(0.1), loss=loss, **EAGER)
        batch = 4 if samples is None else 5  # a size of its own for the last batch is compiled once
        keywords = {"sample_weight": samples, "batch_size": batch, "epochs": 2, "shuffle": False, "verbose": 0}
        ours, theirs = (model.fit(X, labels, **keywords).history for model in (fused, plain))
        assert sorted(ours) == ["accuracy_2", "accuracy_3", "accuracy_5", "loss"]
        same(ours["loss"], theirs["loss"])
        for a, b in zip(fused.get_weights(), plain.get_weights(), strict=True):
            same(a, b)
        evaluated = fused.evaluate(X, labels, sample_weight=samples, batch_size=ROWS, verbose=0)
        same(evaluated[0], array(loss(labels, plain(X), samples)))


def check_reported_numbers_are_right():
    for options, ignored in (({}, None), ({"tied": True, "ignore_class": 1}, 1)):
        model = made(**options)
        model.compile(keras.optimizers.SGD(0.0), **(EAGER if ignored is not None else {}))
        core = {"ignore_index": ignored}
        logits = spec.nested_logits(array(model.encoder(X)), host(model.head), NESTING)
        hits = (logits.argmax(-1) == LABELS)[:, ignored != LABELS].mean(-1)
        history = model.fit(X, LABELS, batch_size=5, verbose=0, validation_data=(X, LABELS)).history
        for prefix in ("", "val_"):
            same([history[f"{prefix}accuracy_{dim}"][0] for dim in NESTING.dims], hits)
        found = model.evaluate(X, LABELS, verbose=0, return_dict=True)
        assert sorted(found) == ["accuracy_2", "accuracy_3", "accuracy_5", "loss"]
        same(found["loss"], mean_of(model, **core))
        same(model.train_on_batch(X, LABELS, SAMPLES)[0], mean_of(model, sample_weight=SAMPLES, **core))
    smoothed = made(label_smoothing=0.1)
    expected = mean_of(smoothed, label_smoothing=0.1)
    for labels in (LABELS, LABELS[:, None].astype("float32"), np.eye(CLASSES)[LABELS]):
        smoothed.compile(keras.optimizers.SGD(0.0), **EAGER)
        same(smoothed.train_on_batch(X, labels)[0], expected)
        same(smoothed.evaluate(X, labels, verbose=0)[0], expected)
    weighted = made()
    weighted.compile(keras.optimizers.SGD(0.0), **EAGER)
    history = weighted.fit(X, LABELS, batch_size=ROWS, class_weight={0: 2.0, 1: 0.5}, verbose=0).history
    samples = np.array([2.0, 0.5, 1.0, 1.0])[LABELS]
    same(history["loss"][0], mean_of(weighted, sample_weight=samples))


def check_training_without_accuracies():
    model = made(train_accuracy=False)
    model.compile("sgd", weighted_metrics=[])
    history = model.fit(X, LABELS, validation_data=(X, LABELS), epochs=2, verbose=0).history
    assert sorted(history) == ["loss", "val_accuracy_2", "val_accuracy_3", "val_accuracy_5", "val_loss"]
    asked = made(train_accuracy=False)
    asked.compile("sgd", **EAGER, metrics=[GranularityAccuracy(3, NESTING, name="mine")])
    assert sorted(asked.fit(X, LABELS, verbose=0).history) == ["loss", "mine"]


def check_losses_and_metrics_of_compile():
    model = made()
    model.compile(
        keras.optimizers.SGD(0.0),
        loss=NestedSparseCategoricalCrossentropy(NESTING, ignore_class=1),
        metrics=[GranularityAccuracy(3, NESTING, name="mine")],
    )
    found = model.fit(X, LABELS, verbose=0).history
    same(found["loss"][0], mean_of(model, ignore_index=1))
    assert found["mine"] == found["accuracy_3"]
    regularized = MatryoshkaModel(encoder(kernel_regularizer=keras.regularizers.L2(0.1)), NESTING, CLASSES)
    regularized.compile(keras.optimizers.SGD(0.0))
    loss = regularized.train_on_batch(X, LABELS)[0]
    same(loss, mean_of(regularized) + 0.1 * (array(regularized.encoder.weights[0]) ** 2).sum())


class Doubling(keras.layers.Layer):
    """An encoder of one's own that says nothing of its shapes, and behaves otherwise in training."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], NESTING.width))

    def call(self, x, training=None):
        return (2.0 if training else 1.0) * (x @ self.kernel)


def check_an_encoder_of_ones_own():
    model = MatryoshkaModel(Doubling(), NESTING, CLASSES)
    model.compile(keras.optimizers.SGD(0.0), **EAGER)
    same(model.evaluate(X, LABELS, verbose=0)[0], mean_of(model))
    model.reset_metrics()
    trained = model.train_on_batch(X, LABELS)[0]
    z = array(model.encoder(X, training=True))
    same(trained, spec.nested_cross_entropy(z, host(model.head), LABELS, NESTING).total)


def check_predictions():
    for tied in (False, True):
        model = made(tied)
        model.compile("sgd")
        expected = spec.nested_logits(array(model.encoder(X)), host(model.head), NESTING)
        for _ in range(2):
            same(model.predict(X, verbose=0), expected[-1])
            for g, dim in enumerate(NESTING.dims):
                same(model.predict(X, batch_size=5, verbose=0, dim=dim), expected[g])
                same(model.predict_on_batch(X, dim=dim), expected[g])
            same(model(X), np.moveaxis(expected, 0, 1))
            model.fit(X, LABELS, verbose=0)
            expected = spec.nested_logits(array(model.encoder(X)), host(model.head), NESTING)
        same(model(X), np.moveaxis(expected, 0, 1))


def check_mixed_precision():
    for half, tied in (("bfloat16", False), ("float16", True)):
        keras.config.set_dtype_policy(f"mixed_{half}")
        try:
            model = made(tied)
            z = model.encoder(X)
            assert keras.backend.standardize_dtype(z.dtype) == half == model.head.compute_dtype
            logits = model(X)
            assert keras.backend.standardize_dtype(logits.dtype) == "float32"
            assert {weight.dtype for weight in model.weights} == {"float32"}
            rounded = mrl.convert(type(model.head.head)(*(_half(field, half) for field in model.head.head)), "numpy")
            z64 = array(ops.cast(z, "float32"))
            same(logits, np.moveaxis(spec.nested_logits(z64, rounded, NESTING), 0, 1))
            model.compile(keras.optimizers.SGD(0.1))
            expected = spec.nested_cross_entropy(z64, rounded, LABELS, NESTING).total
            history = model.fit(X, LABELS, epochs=20, verbose=0, batch_size=ROWS).history["loss"]
            same(history[0], expected, rtol=3 * float(ml_dtypes.finfo(half).eps))  # compiled, z is rounded otherwise
            assert history[-1] < history[0]
            kept = MatryoshkaHead(NESTING, CLASSES, dtype="float32")
            same(kept(z), np.moveaxis(spec.nested_logits(z64, host(kept), NESTING), 0, 1))
            assert kept.compute_dtype == "float32"
        finally:
            keras.config.set_dtype_policy("float32")


def _half(field, half):
    if field is None:
        return None
    if isinstance(field, tuple):
        return tuple(_half(x, half) for x in field)
    return ops.cast(ops.cast(field, half), "float32")


def check_gradients():
    """Of a step of plain descent, against the specification's."""
    for tied in (False, True):
        model = MatryoshkaModel(keras.layers.Identity(), NESTING, CLASSES, tied=tied)
        model.build((None, NESTING.width))
        before, head = [array(weight) for weight in model.trainable_weights], host(model.head)
        _, dhead = spec.nested_cross_entropy_vjp(Z, head, LABELS, NESTING, 1.0)
        model.compile(keras.optimizers.SGD(1.0))
        model.train_on_batch(Z, LABELS)
        leaves = mrl.heads.head_leaves(dhead)
        for old, weight, gradient in zip(before, model.trainable_weights, leaves, strict=True):
            same(old - array(weight), gradient, rtol=1e-4, atol=1e-6)


def check_configurations():
    model = made(tied=True, label_smoothing=0.1, train_accuracy=False, use_bias=False, name="mine")
    loss = NestedSparseCategoricalCrossentropy(NESTING, False, -1, "sum")
    objects = [
        MatryoshkaHead(
            NESTING, CLASSES, tied=True, use_bias=False, kernel_regularizer="l2", name="h", dtype="bfloat16"
        ),
        loss,
        NestedCategoricalCrossentropy(NESTING, label_smoothing=0.2),
        GranularityAccuracy(3, NESTING, ignore_class=2),
        model,
    ]
    for thing in objects:
        text = json.dumps(keras.saving.serialize_keras_object(thing))
        again = keras.saving.deserialize_keras_object(json.loads(text))
        assert type(again) is type(thing)
        assert again.nesting == NESTING
        assert json.loads(json.dumps(again.get_config())) == json.loads(json.dumps(thing.get_config()))
    clone = keras.models.clone_model(keras.Sequential([keras.Input((5,)), MatryoshkaHead(NESTING, CLASSES, tied=True)]))
    assert clone.layers[0].tied


def check_errors():
    cases = {
        "nesting: expected an mrl.Nesting": lambda: MatryoshkaHead((2, 3), 4),
        "classes: expected an integer of at least 1, got 0": lambda: MatryoshkaHead(NESTING, 0),
        "tied: expected True or False, got 'yes'": lambda: MatryoshkaHead(NESTING, 4, tied="yes"),
        "z: expected shape (batch, ..., D) with D at least 5, got (2, 4)": lambda: MatryoshkaHead(NESTING, 4)(
            Z[:2, :4]
        ),
        "dim: expected one of (2, 3, 5), got 4": lambda: MatryoshkaHead(NESTING, 4).predict(Z, 4),
        "dim: expected one of (2, 3, 5), got 7": lambda: made().predict(X, dim=7, verbose=0),
        "dim: expected an integer, got float": lambda: GranularityAccuracy(2.0, NESTING),
        "encoder: expected a layer or model of Keras, got function": lambda: MatryoshkaModel(encoder, NESTING, 4),
        "ignore_class: expected None beside label_smoothing=0.1": lambda: made(label_smoothing=0.1, ignore_class=1),
        "y_pred: expected shape (batch, ..., G, C) with G = 3": lambda: NestedSparseCategoricalCrossentropy(NESTING)(
            LABELS, logits_of()[:, :2]
        ),
        "y_true: expected shape (batch, ..., C) with C = 4": lambda: NestedCategoricalCrossentropy(NESTING)(
            LABELS, logits_of()
        ),
        "head.weight: expected shape (..., D) with D at least 5": lambda: MatryoshkaHead.from_head(
            mrl.TiedHead(np.ones((4, 3))), NESTING
        ),
    }
    for message, ask in cases.items():
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            ask()


def check_saving():
    for tied in (False, True):
        model = made(tied)
        model.compile("adam")
        model.fit(X, LABELS, verbose=0)
        name = FOLDER / f"{BACKEND}-{tied}"
        model.save(f"{name}.keras")
        np.savez(f"{name}.npz", logits=array(model(X)), evaluated=model.evaluate(X, LABELS, verbose=0))
        found, nesting = mrl.read_head(f"{name}.keras", NESTING, prefix="head")
        assert nesting == NESTING
        for leaf, expected in zip(mrl.heads.head_leaves(found), mrl.heads.head_leaves(host(model.head)), strict=True):
            np.testing.assert_array_equal(leaf, expected)


def tensorflow_data_with_a_partial_last_batch():
    import tensorflow as tf

    model = made()
    model.compile(keras.optimizers.SGD(0.0), jit_compile=True)
    data = tf.data.Dataset.from_tensor_slices((X, LABELS, SAMPLES)).batch(4)
    history = model.fit(data, verbose=0, shuffle=False, validation_data=data).history
    batches = [slice(0, 4), slice(4, 8), slice(8, 10)]
    losses = [mean_of(model, X[b], LABELS[b], SAMPLES[b]) for b in batches]
    expected = np.average(losses, weights=[4, 4, 2])
    same([history["loss"][0], history["val_loss"][0]], [expected] * 2)
    same(model.predict(data.map(lambda x, y, w: x), dim=2, verbose=0), array(model(X))[:, 0])


def tensorflow_two_replicas_are_one_device():
    """Losses, accuracies and steps of one batch on two logical devices, fused and of logits."""
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU"))
    assert strategy.num_replicas_in_sync == 2
    cases = [({"tied": True}, SAMPLES, None), ({}, None, NestedSparseCategoricalCrossentropy(NESTING))]
    for options, samples, loss in cases:
        found = []
        for scope in (strategy.scope(), contextlib.nullcontext()):
            with scope:
                model = made(**options)
                model.compile(keras.optimizers.SGD(0.1), loss=loss)
            keywords = {"sample_weight": samples, "batch_size": ROWS, "verbose": 0}
            history = model.fit(X, LABELS, epochs=2, shuffle=False, **keywords).history
            found.append([history, model.get_weights()])
            if loss is None:
                found[-1].append(model.evaluate(X, LABELS, **keywords))
                found[-1].append(model.predict(X, batch_size=ROWS, dim=3, verbose=0))
        for one, other in zip(keras.tree.flatten(found[0]), keras.tree.flatten(found[1]), strict=True):
            same(one, other)


def tensorflow_export():
    import tensorflow as tf

    for tied in (False, True):
        model = made(tied)
        path, logits = str(FOLDER / f"served-{tied}"), array(model(X))
        model.export(path, verbose=False)
        np.savez(f"{path}.npz", logits=logits)
        served = tf.saved_model.load(path)
        same(served.serve(X[:3]), logits[:3])
    model.head(model.encoder(X), dim=3)
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [keras.InputSpec(shape=(None, WIDTH), dtype="float32")]
    archive.add_endpoint("serve", lambda x: model.head(model.encoder(x), dim=3), signature)
    archive.write_out(str(FOLDER / "served-3"), verbose=False)
    served = tf.saved_model.load(str(FOLDER / "served-3"))
    same(served.serve(X), array(model(X))[:, 1])


def load_saved_models():
    for tied in (False, True):
        name = FOLDER / f"{BACKEND}-{tied}"
        model, expected = keras.saving.load_model(f"{name}.keras"), np.load(f"{name}.npz")
        same(model(X), expected["logits"])
        same(model.predict(X, dim=3, verbose=0), expected["logits"][:, 1])
        same(model.evaluate(X, LABELS, verbose=0), expected["evaluated"])
        model.fit(X, LABELS, verbose=0)


def load_exported_models():
    """In a process that has the class, but makes no use of it."""
    for path in FOLDER.glob("served-*.npz") if BACKEND == "tensorflow" else ():
        import tensorflow as tf

        served = tf.saved_model.load(str(path.with_suffix("")))
        same(served.serve(X), np.load(path)["logits"])


def main():
    phase = ("load_",) if "--load" in sys.argv else ("check_", f"{BACKEND}_")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        cpu, two = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    found = {}
    for name, check in list(globals().items()):
        if name.startswith(phase):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras' own
                    start = time.process_time()
                    check()
                    print(f"{time.process_time() - start:6.1f} s  {name}", file=sys.stderr)
                found[name] = None
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
