"""What is differentiable once, in reverse, and says so when it is asked for more."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.ops.gradients_util import POSSIBLE_GRADIENT_TYPES_NONE, PossibleTapeGradientTypes
from tensorflow.python.saved_model.save_context import in_save_context

from .arrays import nan_where


def is_watched(x: tf.Tensor) -> bool:
    """Whether a tape that can be seen asks for its gradient.

    A tape outside of a function that is traced cannot be: what it alone watches has its gradient computed when it is
    asked for.
    """
    return bool(PossibleTapeGradientTypes([x]) != POSSIBLE_GRADIENT_TYPES_NONE)


def differentiable_once(function: str, gradient: tf.Tensor, *inputs: tf.Tensor) -> tf.Tensor:
    """A gradient that depends on ``inputs`` in a way that is not known: asking for it is an error, not zero."""

    @tf.custom_gradient
    def call(gradient: tf.Tensor, *inputs: tf.Tensor) -> Any:
        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            if _traced_unasked():
                return [tf.zeros_like(x) + nan_where(True, x.dtype) for x in (upstream, *inputs)]
            raise TypeError(
                f"{function}: the fused form is differentiable once, in reverse; got a second derivative "
                "or forward-mode differentiation; pass fused=False for the composed form"
            )

        return tf.identity(gradient), backward

    return call(gradient, *inputs)


def _traced_unasked() -> bool:
    """Whether all gradients are traced, whether or not anybody will ask for them.

    So they are of what is saved, and of the backward pass of a ``tf.function`` that one more tape might watch.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return in_save_context() or getattr(graph, "name", "").startswith("__backward_")
