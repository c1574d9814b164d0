"""TensorFlow: how it runs a function and takes its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .base import Call, Result, Script, dtype_of, result_of


def _array(numbers: str, dtype: str, device: Any) -> str:
    return f"tf.constant({numbers}, tf.{dtype})"  # on TensorFlow's own choice of a device


def _gradients(call: str, names: Sequence[str], upstream: str | None) -> list[str]:
    inputs = ", ".join(names)
    given = "None" if upstream is None else f"tf.cast({upstream}, total.dtype)"
    return [
        "with tf.GradientTape() as tape:",
        f"    tape.watch([{inputs}])",
        f"    total = {call.format(inputs)}",
        f"{', '.join(f'd{name}' for name in names)}, = tape.gradient(",
        f"    total, [{inputs}], {given}, unconnected_gradients=tf.UnconnectedGradients.ZERO",
        ")",
    ]


class TensorFlowDriver:
    """TensorFlow: ``eager``, ``graph`` with an unknown batch size, and ``xla``."""

    name = "tensorflow"
    modes = ("eager", "graph", "xla")
    dtypes = ("float16", "bfloat16", "float32", "float64")
    gradients = True
    script = Script(("import tensorflow as tf",), _array, _gradients, "tf.cast({}, tf.float64)")

    def __init__(self) -> None:
        self._traced: dict[Any, Any] = {}

    def run(self, mode: str, call: Call) -> Result:
        import tensorflow as tf

        def objective(inputs: Any, constants: Any, upstream: Any = None) -> Any:
            if upstream is None:
                return tuple(call.function(inputs, constants)), None
            wanted = [inputs[place] for place in call.differentiated]
            twice = call.twice and tf.executing_eagerly()
            with tf.GradientTape(persistent=twice) as tape:
                tape.watch(wanted)
                outputs = tuple(call.function(inputs, constants))
                scalar = tf.reduce_sum(outputs[0] * tf.cast(upstream, outputs[0].dtype))
            for _ in range(1 + twice):
                found = tape.gradient(scalar, wanted, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return outputs, call.placed(found)

        with tf.device(call.device):
            given = [
                [tf.cast(tf.constant(x), dtype) for x, dtype in call.typed],
                [tf.cast(tf.constant(x), dtype_of(x, call) or x.dtype) for x in call.constants],
            ]
            if call.upstream is not None:
                given.append(tf.cast(tf.constant(call.upstream), call.dtype))
            run: Any = objective
            if mode != "eager":
                run = self._traced.get((call.key, call.dtype, mode))
            if run is None:
                signature = _signature(*given, known_axes=call.known_axes, rowless=call.rowless)
                run = tf.function(objective, jit_compile=mode == "xla", input_signature=signature)
                self._traced[call.key, call.dtype, mode] = run
            with _full_products():
                outputs, gradients = run(*given)
        return result_of(outputs, gradients, lambda x: tf.cast(x, tf.float64).numpy())


@contextmanager
def _full_products() -> Iterator[None]:
    """No TF32, which is TensorFlow's default for float32 on a GPU that has it."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _signature(inputs: list[Any], constants: list[Any], upstream: Any = None, *, known_axes: int, rowless: int) -> Any:
    """The embeddings come first: their leading axes, and those of what goes with them, are left unknown."""
    import tensorflow as tf

    z, *leaves = inputs
    unknown = [*z.shape[:known_axes], *[None] * (z.shape.rank - 1 - known_axes)]
    beside = constants[: len(constants) - rowless]

    def rows(x: Any) -> Any:
        last = [x.shape[-1]] if x.shape.rank > len(unknown) - known_axes and not x.dtype.is_integer else []
        return tf.TensorSpec([*[None] * (x.shape.rank - len(last)), *last], x.dtype)

    def whole(x: Any) -> Any:
        return tf.TensorSpec(x.shape, x.dtype)

    return [
        [tf.TensorSpec([*unknown, z.shape[-1]], z.dtype), *map(whole, leaves)],
        [*map(rows, beside), *map(whole, constants[len(beside) :])],
        *([] if upstream is None else [tf.TensorSpec([None] * upstream.shape.rank, upstream.dtype)]),
    ]
