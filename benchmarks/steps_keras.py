"""One step of ``fit``, as Keras itself runs it, of a plain head, a loop over prefixes and ``MatryoshkaModel``."""

from __future__ import annotations

import os
import time
from typing import Any

from cases import Size

BATCHES = 6
"""Of one ``fit``; the first is not counted."""


def seconds(size: Size, backend: str, repeats: int, trained: bool = True) -> dict[str, list[float]]:
    """Each step of ``repeats`` calls of ``fit`` in turn; the last two report accuracies too.

    The encoder multiplies each dimension by a number, so that the gradient of the embedding is wanted, as that of any
    encoder is; or, with ``trained=False``, it is the identity. The optimiser is plain descent.
    """
    os.environ["KERAS_BACKEND"] = backend  # before anybody imports Keras
    import keras
    import numpy as np
    from mrl.adapters.keras import MatryoshkaModel

    class Prefixes(keras.layers.Layer):
        """What people write: one matrix, multiplied once for every prefix."""

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(size.width, size.classes), name="kernel")
            self.bias = self.add_weight(shape=(size.classes,), initializer="zeros", name="bias")

        def call(self, z: Any) -> list[Any]:
            return [z[:, :m] @ self.kernel[:m] + self.bias for m in size.nesting.dims]

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(size.width,), initializer="ones", name="scale")

        def call(self, z: Any) -> Any:
            return z * self.scale

    encoder = Scale if trained else keras.layers.Identity

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.found = list[float]()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits
            if batch:
                self.found.append(time.perf_counter() - self.start)

    z, _, labels = Size("all", size.rows * BATCHES, size.classes, size.width).inputs()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def plain(*metrics: str) -> Any:
        layers = [keras.Input((size.width,)), encoder(), keras.layers.Dense(size.classes)]
        return compiled(keras.Sequential(layers), loss=cross_entropy, metrics=list(metrics))

    def compiled(model: Any, **options: Any) -> Any:
        model.compile(keras.optimizers.SGD(0.01), **options)
        return model

    def model(**options: Any) -> Any:
        return compiled(MatryoshkaModel(encoder(), size.nesting, size.classes, tied=size.tied, **options))

    inputs = keras.Input((size.width,))
    count = len(size.nesting)
    models = {
        "plain": (plain(), labels),
        "fit": (model(train_accuracy=False), labels),
        "loop": (
            compiled(keras.Model(inputs, Prefixes()(encoder()(inputs))), loss=[cross_entropy] * count),
            [labels] * count,
        ),
        "plain, accuracy": (plain("sparse_categorical_accuracy"), labels),
        "fit, accuracies": (model(), labels),
    }
    if not size.tied:
        del models["loop"]
    found: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(1 + repeats):
        for name, (made, y) in models.items():
            clock = Clock()
            made.fit(np.asarray(z), y, batch_size=size.rows, shuffle=False, verbose=0, callbacks=[clock])
            found[name] += clock.found if turn else []
    return found
