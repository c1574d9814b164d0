"""The rows of all replicas of a ``tf.distribute`` strategy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def place_of(across: Any) -> tf.Tensor:
    """Of this replica among those in step with it."""
    return _context(across).replica_id_in_sync_group


def all_rows(arrays: list[Any], across: Any) -> list[Any]:
    """Of each array the rows of all replicas in their order; what comes back for them is added up."""
    context = _context(across)

    def gathered(x: Any) -> Any:
        if x is None:
            return None
        sent = tf.cast(x, tf.int32) if x.dtype == tf.bool else x
        return tf.ensure_shape(tf.cast(context.all_gather(sent, axis=0), x.dtype), [None, *x.shape[1:]])

    return [gathered(x) for x in arrays]


def summed(x: tf.Tensor, across: Any) -> tf.Tensor:
    """The sum of all replicas."""
    return _context(across).all_reduce(tf.distribute.ReduceOp.SUM, x)


def size_of(across: Any) -> int:
    """The number of replicas."""
    return _context(across).num_replicas_in_sync


def _context(across: Any) -> Any:
    if across is not True:
        raise TypeError(
            f"across: expected True or None in TensorFlow, got {across!r}; a tf.distribute strategy says which devices"
        )
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "across: expected to be called in a replica context, got the cross-replica one; call the loss in the "
            "function that strategy.run runs"
        )
    return context
