"""What ``MatryoshkaModel`` reports, trains, predicts and saves."""

import contextlib

import keras
import ml_dtypes
import numpy as np
from adapter_keras_cases import (
    BACKEND,
    CLASSES,
    EAGER,
    FOLDER,
    LABELS,
    NESTING,
    ROWS,
    SAMPLES,
    SOFT,
    WIDTH,
    X,
    Z,
    array,
    encoder,
    host,
    made,
    mean_of,
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
        model.reset_metrics()
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
