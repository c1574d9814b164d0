"""Nested cross-entropies as losses of Keras, on the logits of all granularities."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mrl import checks
from mrl.nesting import Nesting

from .configs import check_classes, config_of, nesting_of
from .labels import class_indices, wide


class _NestedLoss(keras.losses.Loss):
    """A weighted sum over granularities of one of Keras' own losses, which reduces, masks and scales as it does."""

    def __init__(self, nesting: Nesting, name: str, reduction: str | None, dtype: Any) -> None:
        checks.check_nesting(nesting)
        super().__init__(name=name, reduction=reduction, dtype=wide(dtype))
        self.nesting = nesting
        self._level: Any = None

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        y_true, y_pred = self._prepared(y_true, y_pred, check_classes(y_pred, self.nesting))
        if sample_weight is None:
            return self._sum([(y_true, y_pred[..., g, :]) for g in range(len(self.nesting))], self._level)
        # A copy for each: under PyTorch, Keras multiplies them in place by the mask of ignored labels.
        weights = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
        given = [(y_true, y_pred[..., g, :], ops.copy(weights)) for g in range(len(self.nesting))]
        return self._sum(given, self._level)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """``(batch, ...)`` losses, without a reduction."""
        y_true, y_pred = self._prepared(y_true, y_pred, check_classes(y_pred, self.nesting))
        return self._sum([(y_true, y_pred[..., g, :]) for g in range(len(self.nesting))], self._level.call)

    def _prepared(self, y_true: Any, y_pred: Any, classes: int) -> tuple[Any, Any]:
        return ops.convert_to_tensor(y_true, dtype=self.dtype), y_pred

    def _sum(self, arguments: list[tuple[Any, ...]], loss: Any) -> Any:
        total: Any = None
        for g in self.nesting.levels_in_use:
            term = self.nesting.weights[g] * loss(*arguments[g])
            total = term if total is None else total + term
        return total

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "nesting": config_of(self.nesting), "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**nesting_of(config))


@keras.saving.register_keras_serializable(package="mrl")
class NestedSparseCategoricalCrossentropy(_NestedLoss):
    """The weighted *sum* over granularities of Keras' ``SparseCategoricalCrossentropy``, in nats.

    ``loss = sum_g w_g * SparseCategoricalCrossentropy(y_true, y_pred[..., g, :])``, each as Keras reduces it:
    ``sum_i v_i * CE_i / N`` by default, with ``v`` the ``sample_weight`` and ``N`` the number of examples with a label
    other than ``ignore_class``.

    Args:
        nesting: the granularities and their weights.
        from_logits: ``y_pred`` are logits, as :class:`MatryoshkaHead` gives them, else probabilities. Keras' own losses
            say False here unless they are told.
        ignore_class: examples with this label take no part; any integer.
        reduction, name: as for any loss of Keras.
        dtype: of the computation, at least float32 whatever the policy: a half does not hold every label.

    Called with ``y_true`` ``(batch, ...)`` class indices, integers or floats, a last axis of one allowed, and with
    ``y_pred`` ``(batch, ..., G, C)``. The loss of a label that is no class is NaN.

    Raises:
        TypeError: no nesting; on a call, labels in half precision.
        ValueError: on a call, logits that are not of the nesting's granularities.

    Example:
        >>> import keras, mrl, numpy as np
        >>> from mrl.adapters.keras import NestedSparseCategoricalCrossentropy
        >>> loss = NestedSparseCategoricalCrossentropy(mrl.Nesting((8, 16)))
        >>> round(float(loss(np.array([[2.0]]), np.zeros((1, 2, 10)))) / float(np.log(10)), 5)
        2.0

    Source: arXiv 2205.13147, equation 1; reductions as in ``keras.losses.SparseCategoricalCrossentropy``.
    """

    def __init__(
        self,
        nesting: Nesting,
        from_logits: bool = True,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "nested_sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(nesting, name, reduction, dtype)
        checks.check_flag("from_logits", from_logits)
        self.from_logits = bool(from_logits)
        self.ignore_class = None if ignore_class is None else checks.check_integer("ignore_class", ignore_class)
        self._level = keras.losses.SparseCategoricalCrossentropy(
            from_logits=self.from_logits, ignore_class=self.ignore_class, reduction=reduction, dtype=self.dtype
        )

    def _prepared(self, y_true: Any, y_pred: Any, classes: int) -> tuple[Any, Any]:
        labels = class_indices(y_true, len(y_pred.shape) - 2)
        known = ops.logical_and(labels >= 0, labels < classes)
        if self.ignore_class is not None:
            ignored = ops.equal(labels, self.ignore_class)
            y_pred = ops.where(ignored[..., None, None], 0.0 if self.from_logits else 1.0 / classes, y_pred)
            known = ops.logical_or(known, ignored)
        # Keras makes of a label that is no class an error, a NaN or a number, according to who computes it.
        y_pred = ops.where(known[..., None, None], y_pred, float("nan"))
        return ops.cast(ops.where(known, labels, 0), self.dtype), y_pred

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "ignore_class": self.ignore_class}


@keras.saving.register_keras_serializable(package="mrl")
class NestedCategoricalCrossentropy(_NestedLoss):
    """The weighted *sum* over granularities of Keras' ``CategoricalCrossentropy``, in nats: one-hot or soft labels.

    ``loss = sum_g w_g * CategoricalCrossentropy(y_true, y_pred[..., g, :])``, each as Keras reduces it.

    Args:
        nesting: the granularities and their weights.
        from_logits: ``y_pred`` are logits, as :class:`MatryoshkaHead` gives them, else probabilities. Keras' own losses
            say False here unless they are told.
        label_smoothing: the share in ``[0, 1]`` of the target spread evenly over the classes.
        reduction, name: as for any loss of Keras.
        dtype: of the computation, at least float32 whatever the policy.

    Called with ``y_true`` ``(batch, ..., C)`` and ``y_pred`` ``(batch, ..., G, C)``.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: an option out of range; on a call, shapes that do not fit.

    Example:
        >>> import keras, mrl, numpy as np
        >>> from mrl.adapters.keras import NestedCategoricalCrossentropy
        >>> loss = NestedCategoricalCrossentropy(mrl.Nesting((8, 16), weights=(1.0, 0.5)), label_smoothing=0.1)
        >>> round(float(loss(np.eye(10)[:1], np.zeros((1, 2, 10)))) / float(np.log(10)), 5)
        1.5

    Source: arXiv 2205.13147, equation 1; reductions as in ``keras.losses.CategoricalCrossentropy``.
    """

    def __init__(
        self,
        nesting: Nesting,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "nested_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(nesting, name, reduction, dtype)
        checks.check_flag("from_logits", from_logits)
        self.from_logits = bool(from_logits)
        self.label_smoothing = checks.check_label_smoothing(label_smoothing)
        self._level = keras.losses.CategoricalCrossentropy(
            from_logits=self.from_logits, label_smoothing=self.label_smoothing, reduction=reduction, dtype=self.dtype
        )

    def _prepared(self, y_true: Any, y_pred: Any, classes: int) -> tuple[Any, Any]:
        y_true = ops.convert_to_tensor(y_true, dtype=self.dtype)
        if len(y_true.shape) != len(y_pred.shape) - 1 or y_true.shape[-1] != classes:
            raise ValueError(
                f"y_true: expected shape (batch, ..., C) with C = {classes}, a probability for every class, got "
                f"{tuple(y_true.shape)}; give class indices to NestedSparseCategoricalCrossentropy"
            )
        return y_true, y_pred

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "label_smoothing": self.label_smoothing}
