"""The head, the losses and the metric of ``mrl.adapters.keras``, each by itself."""

import json
import re

import keras
import numpy as np
import pytest
from adapter_keras_cases import (
    BACKEND,
    CLASSES,
    LABELS,
    NESTING,
    RNG,
    ROWS,
    SAMPLES,
    SOFT,
    WIDTH,
    X,
    Z,
    array,
    encoder,
    host,
    logits_of,
    made,
    same,
)
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
    whole = made(dtype="mixed_bfloat16")
    assert whole.compute_output_shape((None, WIDTH)) == (None, 3, CLASSES)
    symbolic = whole(keras.Input((WIDTH,)))
    assert (symbolic.shape, symbolic.dtype) == ((None, 3, CLASSES), "float32")


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


def cross_entropies(logits, labels):
    """``(G, B)`` in float64; ``labels`` are class indices or probabilities."""
    s = np.moveaxis(logits.astype("float64"), 1, 0)
    log_p = s - np.log(np.exp(s).sum(-1, keepdims=True))
    return -(log_p * (labels if labels.ndim == 2 else np.eye(CLASSES)[labels])).sum(-1)


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
