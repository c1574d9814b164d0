"""Tensors to and from NumPy, and the dtype in which they accumulate."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from mrl.heads import Head, NestedHead, TiedHead, head_leaves


def from_numpy(array: Any, *, dtype: str | None, device: Any) -> tf.Tensor:
    with tf.device(device):
        if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__") and not tf.is_tensor(array):
            bits_of = getattr(array, "bits_of", None)
            array = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
            array = tf.bitcast(array, bits_of) if bits_of else array
        tensor = tf.convert_to_tensor(array)
        if dtype is not None:
            tensor = tf.cast(tensor, dtype)
        tensor = tf.identity(tensor)
    if isinstance(device, str) and tf.executing_eagerly():
        placed = tf.DeviceSpec.from_string(tensor.device)
        if placed != placed.make_merged_spec(tf.DeviceSpec.from_string(device)):
            raise ValueError(f"TensorFlow has put it on {placed.device_type}:{placed.device_index}")
    return tensor


def take_numpy(array: Any) -> tf.Tensor:
    return tf.convert_to_tensor(array)


def to_numpy(array: Any, *, blocking: bool) -> np.ndarray | None:
    traced = not hasattr(array, "numpy") or not tf.executing_eagerly()
    if not blocking and (traced or "CPU" not in array.device):
        return None
    if traced:
        raise TypeError("array: expected a tensor with values, got a symbolic one; convert outside of tf.function")
    return np.asarray(array.numpy())


def on_host(array: tf.Tensor) -> bool:
    """Whether it lies in a CPU's memory; of a symbolic one without a place, whether it would by default."""
    return "CPU" in array.device if array.device else not tf.config.list_logical_devices("GPU")


def devices() -> tuple[str, ...]:
    return tuple(device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices())


def nan_where(condition: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """NaN or zero; no constant of it, which ``tf.debugging.enable_check_numerics`` would take for a mistake."""
    return tf.sqrt(-tf.cast(condition, dtype))


def moderate(x: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """``x`` by a power of two, which rounds nothing, where its entries are so large that squares or sums overflow."""
    above, factor = (2.0**400, 2.0**-600) if x.dtype == tf.float64 else (2.0**40, 2.0**-80)
    large = tf.reduce_max(tf.abs(x), axis, keepdims=True) > above
    return x * tf.where(large, tf.constant(factor, x.dtype), tf.constant(1, x.dtype))


def in_xla() -> bool:
    """Whether a function that XLA will compile is traced."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def accumulation_dtype(z: Any, head: Head) -> tf.DType:
    """float32, or float64 where ``z`` or the head has it."""
    return wide_dtype(z, *head_leaves(head))


def wide_dtype(*arrays: Any) -> tf.DType:
    """float32, or float64 where one of them is."""
    return tf.float64 if any(x.dtype == tf.float64 for x in arrays) else tf.float32


def widen(z: Any, head: Head) -> tuple[tf.Tensor, Head]:
    """Both in their accumulation dtype, variables read."""
    wide = accumulation_dtype(z, head)
    if isinstance(head, TiedHead):
        bias = None if head.bias is None else tf.cast(head.bias, wide)
        return tf.cast(z, wide), TiedHead(tf.cast(head.weight, wide), bias)
    biases = None if head.biases is None else tuple(tf.cast(bias, wide) for bias in head.biases)
    return tf.cast(z, wide), NestedHead(tuple(tf.cast(weight, wide) for weight in head.weights), biases)
