"""The accuracy of one granularity as a metric of Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mrl import checks
from mrl.nesting import Nesting

from ..heads import level_of
from .configs import check_classes, config_of, nesting_of
from .labels import hits_of, labels_of, wide


@keras.saving.register_keras_serializable(package="mrl")
class GranularityAccuracy(keras.metrics.Mean):
    """The share of examples whose largest logit at one granularity is their label's; of equals the lowest class counts.

    Args:
        dim: the granularity, one of the nesting's.
        nesting: that of the logits.
        ignore_class: examples with this label are not counted.
        name: ``"accuracy_{dim}"`` if not said otherwise.
        dtype: of the sums, at least float32 whatever the policy.

    Updated with ``y_true`` ``(batch, ...)`` class indices, integers or floats, a last axis of one allowed, or
    ``(batch, ..., C)`` one-hot, of which the largest is the label; with ``y_pred`` ``(batch, ..., G, C)`` logits or
    probabilities; and with ``sample_weight``, by which the share is weighted. An example with NaN among its logits is
    wrong.

    Raises:
        TypeError: an argument of a wrong kind; on an update, labels in half precision.
        ValueError: the nesting has no such granularity; on an update, logits of another nesting.

    Example:
        >>> import keras, mrl, numpy as np
        >>> from mrl.adapters.keras import GranularityAccuracy
        >>> accuracy = GranularityAccuracy(16, nesting=mrl.Nesting((8, 16)))
        >>> logits = np.array([[[9.0, 0.0], [0.0, 1.0]], [[0.0, 9.0], [1.0, 0.0]]])
        >>> accuracy.name, float(accuracy(np.array([1.0, 1.0]), logits))
        ('accuracy_16', 0.5)

    Source: the top-1 accuracy of arXiv 2205.13147, section 4.2.
    """

    def __init__(
        self,
        dim: int,
        nesting: Nesting,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        checks.check_nesting(nesting)
        self._g = level_of(nesting, checks.check_integer("dim", dim))
        super().__init__(name=name or f"accuracy_{dim}", dtype=wide(dtype))
        self.dim, self.nesting = nesting.dims[self._g], nesting
        self.ignore_class = None if ignore_class is None else checks.check_integer("ignore_class", ignore_class)
        self._direction = "up"

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        classes, rank = check_classes(y_pred, self.nesting), len(y_pred.shape) - 2
        labels = labels_of(y_true, rank, classes)
        self.count_hits(labels, hits_of(y_pred[..., self._g, :], labels), sample_weight)

    def count_hits(self, labels: Any, hits: Any, sample_weight: Any = None) -> None:
        """:meth:`update_state` where it is known already which of the int32 ``labels`` are hit, ``(batch, ...)``."""
        if self.ignore_class is not None:
            used, rank = ops.cast(ops.not_equal(labels, self.ignore_class), self.dtype), len(labels.shape)
            if sample_weight is None:
                sample_weight = used
            else:
                given = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
                given = ops.squeeze(given, -1) if len(given.shape) == rank + 1 and given.shape[-1] == 1 else given
                sample_weight = ops.where(ops.equal(used, 0), 0.0, given)
        super().update_state(ops.cast(hits, self.dtype), sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "nesting": config_of(self.nesting),
            "ignore_class": self.ignore_class,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GranularityAccuracy:
        return cls(**nesting_of(config))
