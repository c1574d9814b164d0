"""A model of Keras that trains an encoder and a Matryoshka head with the fused loss of the embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

import mrl
from mrl import checks
from mrl.nesting import Nesting

from ..heads import level_of
from .configs import config_of, nesting_of
from .head import MatryoshkaHead
from .labels import are_probabilities, class_indices, hits_of, labels_of
from .losses import NestedCategoricalCrossentropy, NestedSparseCategoricalCrossentropy
from .metrics import GranularityAccuracy


@keras.saving.register_keras_serializable(package="mrl")
class MatryoshkaModel(keras.Model):
    """An encoder and a :class:`MatryoshkaHead`, for ``compile``, ``fit``, ``evaluate`` and ``predict``.

    ``model(x)`` are the logits ``(batch, G, C)`` of all granularities, ``predict`` gives those of one. ``fit`` takes
    the loss of the embedding by :func:`mrl.nested_cross_entropy`, which keeps no logits for a gradient: the numbers of
    :class:`NestedSparseCategoricalCrossentropy`, or of :class:`NestedCategoricalCrossentropy` where labels are one-hot
    or soft, with Keras' own mean ``sum_i v_i * loss_i / N``. Reported are ``loss`` and ``accuracy_{m}`` for each
    granularity. ``compile(loss=...)`` puts another loss, of the logits, in its place.

    Args:
        encoder: a layer or model that maps inputs to embeddings ``(batch, D)``.
        nesting: the granularities and their weights.
        classes: ``C``, at least 1.
        tied, use_bias: of the head.
        label_smoothing: the share of the target spread evenly over the classes.
        ignore_class: examples with this label take no part; not with ``label_smoothing`` or one-hot labels.
        train_accuracy: report accuracies in training too, for which logits are made that the loss does without.
        kwargs: ``name``, ``dtype``, as any model takes them; ``dtype`` is the head's policy too.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: an option out of range.

    Example:
        >>> import keras, mrl, numpy as np
        >>> from mrl.adapters.keras import MatryoshkaModel
        >>> model = MatryoshkaModel(keras.layers.Dense(16), mrl.Nesting((8, 16)), classes=10)
        >>> model.compile("adam")
        >>> x, y = np.ones((6, 20), "float32"), np.arange(6)
        >>> sorted(model.fit(x, y, verbose=0).history)
        ['accuracy_16', 'accuracy_8', 'loss']
        >>> model.predict(x, verbose=0).shape, model.predict(x, verbose=0, dim=8).shape
        ((6, 10), (6, 10))

    Source: arXiv 2205.13147, section 3.
    """

    predict_function: Any

    def __init__(
        self,
        encoder: Any,
        nesting: Nesting,
        classes: int,
        *,
        tied: bool = False,
        use_bias: bool = True,
        label_smoothing: float = 0.0,
        ignore_class: int | None = None,
        train_accuracy: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(encoder, keras.layers.Layer):
            raise TypeError(
                f"encoder: expected a layer or model of Keras, got {type(encoder).__name__}; wrap it in one"
            )
        self.encoder = encoder
        self.head = MatryoshkaHead(nesting, classes, tied=tied, use_bias=use_bias, dtype=self.dtype_policy, name="head")
        self.nesting = nesting
        self.label_smoothing = checks.check_label_smoothing(label_smoothing)
        self.ignore_class = None if ignore_class is None else checks.check_integer("ignore_class", ignore_class)
        if self.label_smoothing and ignore_class is not None:
            raise ValueError(
                f"ignore_class: expected None beside label_smoothing={label_smoothing}, got {ignore_class}; leave "
                "examples out with a sample_weight of 0"
            )
        checks.check_flag("train_accuracy", train_accuracy)
        self.train_accuracy = bool(train_accuracy)
        self.accuracies = [GranularityAccuracy(dim, nesting, ignore_class=ignore_class) for dim in nesting.dims]
        self._sparse_loss = NestedSparseCategoricalCrossentropy(nesting, ignore_class=ignore_class)
        self._soft_loss = NestedCategoricalCrossentropy(nesting, label_smoothing=self.label_smoothing)
        self._dim: int | None = None
        self._predict_functions: dict[int, Any] = {}

    def build(self, input_shape: Any) -> None:
        if not (self.encoder.built and self.head.built):
            # Called, not asked for its output's shape, which layers need not know; it is built so too.
            z = self.encoder(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))
            self.head.build(z.shape)
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """``(batch, G, C)`` logits; in ``fit``, whose loss is of the embedding, that and what is reported besides."""
        z = self.encoder(x, training=training)  # told by name: under JAX Keras tells the outer alone
        if self._dim is not None:
            return self.head(z, dim=self._dim)
        if not (training is True and self.compiled and self.loss is None):
            return self.head(z)
        # One reading of the weights, for the loss and for what is reported: where both are compiled, what both multiply
        # is multiplied once.
        z, *leaves = self.head.factors(z)
        if self._compile_metrics is None and not self.train_accuracy:
            return z, *leaves
        fixed = [ops.stop_gradient(x) for x in (z, *leaves)]
        return z, *leaves, mrl.nested_logits(fixed[0], self.head.head_of(fixed[1:]), self.nesting)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        z = self.encoder(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))
        return self.head.compute_output_shape(z.shape)

    def compute_output_spec(self, x: Any, training: bool | None = None) -> keras.KerasTensor:
        return self.head(self.encoder(x))  # whose dtype is not the policy's

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss that is trained: of the embedding where ``fit`` has it, else of the logits."""
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if isinstance(y_pred, (tuple, list)):
            z, head = y_pred[0], self.head.head_of(y_pred[1:])
            total = self._fused(z, head, y, sample_weight)
        elif are_probabilities(y, len(y_pred.shape) - 2, self.head.classes):
            total = self._soft_loss(y, y_pred, sample_weight)
        elif self.label_smoothing:
            labels = class_indices(y, len(y_pred.shape) - 2)
            shares = ops.one_hot(labels, self.head.classes, dtype=self._soft_loss.dtype)
            known = ops.logical_and(labels >= 0, labels < self.head.classes)
            shares = ops.where(known[..., None], shares, float("nan"))
            total = self._soft_loss(shares, y_pred, sample_weight)
        else:
            total = self._sparse_loss(y, y_pred, sample_weight)
        for loss in self.losses:  # of regularizers and add_loss
            total = total + ops.cast(ops.sum(loss), total.dtype)
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """What ``fit`` and ``evaluate`` report: the loss, the accuracies, and what ``compile`` was given."""
        trained = isinstance(y_pred, (tuple, list))
        left_out = trained and not self.train_accuracy
        asked = self._compile_metrics is not None
        if not left_out:
            levels = y_pred[-1] if trained else ops.moveaxis(y_pred, -2, 0)
            labels = labels_of(y, len(levels.shape) - 2, self.head.classes)
            for g, accuracy in enumerate(self.accuracies):
                accuracy.count_hits(labels, hits_of(levels[g], labels))
        given = (ops.moveaxis(y_pred[-1], 0, -2) if asked else y_pred[0]) if trained else y_pred
        found: dict[str, Any] = super().compute_metrics(x, y, given, sample_weight)
        names = {accuracy.name for accuracy in self.accuracies} if left_out else set()
        return {name: value for name, value in found.items() if name not in names}

    def predict(self, x: Any, *args: Any, dim: int | None = None, **kwargs: Any) -> Any:
        """``(N, C)`` logits at one granularity, as ``keras.Model.predict`` gives them.

        Args:
            x, args, kwargs: as of that method.
            dim: one of the nesting's; ``None`` is the largest.

        Raises:
            TypeError, ValueError: no integer, or the nesting has no such granularity.
        """
        with self._answering(dim):
            return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x: Any, *, dim: int | None = None) -> Any:
        """As :meth:`predict`, of one batch."""
        with self._answering(dim):
            return super().predict_on_batch(x)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "nesting": config_of(self.nesting),
            "classes": self.head.classes,
            "tied": self.head.tied,
            "use_bias": self.head.use_bias,
            "label_smoothing": self.label_smoothing,
            "ignore_class": self.ignore_class,
            "train_accuracy": self.train_accuracy,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> MatryoshkaModel:
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**nesting_of({**config, "encoder": encoder}))

    @contextmanager
    def _answering(self, dim: int | None) -> Iterator[None]:
        """Keras keeps the function that it traced to predict: here one for each granularity, until it is compiled."""
        dim = self.nesting.dims[level_of(self.nesting, dim)]
        if self.predict_function is None:
            self._predict_functions.clear()
        before, self._dim, self.predict_function = self._dim, dim, self._predict_functions.get(dim)
        try:
            yield
        finally:
            self._dim = before
            if self.predict_function is not None:
                self._predict_functions[dim] = self.predict_function

    def _fused(self, z: Any, head: Any, y: Any, sample_weight: Any) -> Any:
        """The loss of embeddings, reduced as Keras reduces: the sum over the batch, weighted, by the rows in use."""
        options: dict[str, Any] = {"label_smoothing": self.label_smoothing}
        if are_probabilities(y, len(z.shape) - 1, self.head.classes):
            labels = ops.convert_to_tensor(y, dtype="float32")
        else:
            labels = class_indices(y, len(z.shape) - 1)
            options["ignore_index"] = self.ignore_class
        if sample_weight is None:
            return _share(mrl.nested_cross_entropy(z, head, labels, self.nesting, **options).total)
        sample_weight = ops.convert_to_tensor(sample_weight, dtype="float32")
        if len(sample_weight.shape) == len(z.shape) and sample_weight.shape[-1] == 1:
            sample_weight = ops.squeeze(sample_weight, -1)
        total = mrl.nested_cross_entropy(
            z, head, labels, self.nesting, sample_weight=sample_weight, reduction="sum", **options
        ).total
        used = ops.ones_like(sample_weight)
        if options.get("ignore_index") is not None:
            used = ops.cast(ops.not_equal(labels, self.ignore_class), "float32")
        return _share(ops.divide_no_nan(total, ops.cast(ops.sum(used), total.dtype)))


def _share(loss: Any) -> Any:
    """Of a mean over one replica's part of a batch its share in the mean over all, which ``tf.distribute`` sums."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss / tf.distribute.get_strategy().num_replicas_in_sync
