"""How each framework runs a function and takes its gradient: eagerly, and in its traced modes.

A driver is given ``function(arrays, constants) -> outputs``, differentiates ``sum(upstream * outputs[0])`` for
the arrays, and hands everything back as float64 NumPy, after checking the dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..checks import dtype_name
from ..dispatch import BUILTIN, backend_named, backend_of
from .problems import Float

Function = Callable[[list[Any], list[Any]], Sequence[Any]]


class Result(NamedTuple):
    """What one run gave: ``gradients`` is ``None`` where the backend has no automatic differentiation."""

    outputs: list[Float]
    gradients: list[Float] | None
    output_dtypes: list[str]
    gradient_dtypes: list[str]


class Driver(Protocol):
    """One framework's way of running a function."""

    @property
    def name(self) -> str: ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def dtypes(self) -> tuple[str, ...]: ...

    def run(
        self,
        mode: str,
        key: Any,
        function: Function,
        arrays: list[Float],
        constants: list[np.ndarray],
        upstream: Float | None,
        dtype: str,
        device: Any,
        known_axes: int = 0,
    ) -> Result:
        """Run ``function`` in ``mode``; calls with an equal ``key`` may share one traced function.

        Without ``upstream`` nothing is differentiated. So many ``known_axes`` of the first array, and its last, are
        known to a graph; the others have any size.
        """


def driver_of(name: str) -> Driver:
    """The driver of a backend; a plug-in gets one that runs it eagerly and looks at values only."""
    if name in BUILTIN:
        backend_named(name)  # says what to install where the framework is missing
    drivers: dict[str, Callable[[], Driver]] = {"torch": TorchDriver, "jax": JaxDriver, "tensorflow": TensorFlowDriver}
    return drivers[name]() if name in drivers else ValueDriver(name)


class ValueDriver:
    """Runs eagerly and takes no gradient: NumPy, and plug-ins."""

    modes = ("eager",)
    dtypes = ("float16", "float32", "float64")

    def __init__(self, name: str) -> None:
        self.name = name
        self._backend = backend_named(name)

    def run(
        self,
        mode: str,
        key: Any,
        function: Function,
        arrays: list[Float],
        constants: list[np.ndarray],
        upstream: Float | None,
        dtype: str,
        device: Any,
        known_axes: int = 0,
    ) -> Result:
        make = self._backend.from_numpy
        outputs = function(
            [make(x, dtype=dtype, device=device) for x in arrays],
            [make(x, dtype=None, device=device) for x in constants],
        )
        values = [np.asarray(backend_of({"output": x}).to_numpy(x, blocking=True), np.float64) for x in outputs]
        return Result(values, None, [dtype_name(x) for x in outputs], [])


class TorchDriver:
    """PyTorch: ``eager``, and ``compile`` as one graph (captured and differentiated, without code generation)."""

    name = "torch"
    modes = ("eager", "compile")
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def run(
        self,
        mode: str,
        key: Any,
        function: Function,
        arrays: list[Float],
        constants: list[np.ndarray],
        upstream: Float | None,
        dtype: str,
        device: Any,
        known_axes: int = 0,
    ) -> Result:
        import torch

        def tensor(x: np.ndarray, kind: Any) -> Any:
            return torch.tensor(x, dtype=kind, device=device)

        inputs = [tensor(x, getattr(torch, dtype)).requires_grad_(upstream is not None) for x in arrays]
        labels = [tensor(x, None) for x in constants]
        if mode == "compile":
            if (key, dtype) not in self._compiled:
                compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)
                self._compiled[key, dtype] = compiled
            function = self._compiled[key, dtype]
        # Layouts and dtypes share one code object, for which torch.compile keeps few graphs unless told otherwise.
        with torch._dynamo.config.patch(cache_size_limit=1024, accumulated_cache_size_limit=4096):
            outputs = function(inputs, labels)
        head, gradients = outputs[0], None
        if upstream is not None:
            if not head.requires_grad:
                raise AssertionError("expected a loss that carries a gradient, got one that is detached")
            gradients = torch.autograd.grad(
                head, inputs, tensor(upstream, head.dtype), allow_unused=True, materialize_grads=True
            )
        return Result(
            [x.detach().double().cpu().numpy() for x in outputs],
            None if gradients is None else [x.double().cpu().numpy() for x in gradients],
            [dtype_name(x) for x in outputs],
            [dtype_name(x) for x in gradients or ()],
        )


class JaxDriver:
    """JAX: ``eager`` and ``jit``; float64 needs x64."""

    name = "jax"
    modes = ("eager", "jit")

    def __init__(self) -> None:
        self._jitted: dict[Any, Any] = {}

    @property
    def dtypes(self) -> tuple[str, ...]:
        import jax

        wide = ("float64",) if jax.config.jax_enable_x64 else ()
        return ("float16", "bfloat16", "float32", *wide)

    def run(
        self,
        mode: str,
        key: Any,
        function: Function,
        arrays: list[Float],
        constants: list[np.ndarray],
        upstream: Float | None,
        dtype: str,
        device: Any,
        known_axes: int = 0,
    ) -> Result:
        import jax
        import jax.numpy as jnp

        make = backend_named("jax").from_numpy
        inputs = [make(np.asarray(jnp.asarray(x, dtype)), dtype=dtype, device=device) for x in arrays]
        labels = [make(x.astype(np.int32), dtype=None, device=device) for x in constants]

        def objective(inputs: Any, labels: Any, upstream: Any) -> Any:
            outputs = tuple(function(inputs, labels))
            return jnp.sum(outputs[0] * upstream.astype(outputs[0].dtype)), outputs

        def value(inputs: Any, labels: Any, upstream: Any) -> Any:
            return (None, tuple(function(inputs, labels))), None

        run = value if upstream is None else jax.value_and_grad(objective, has_aux=True)
        if mode == "jit":
            run = self._jitted.setdefault((key, dtype), jax.jit(run))
        up = None if upstream is None else jnp.asarray(upstream, dtype)
        (_, outputs), gradients = run(inputs, labels, up)
        return Result(
            [np.asarray(x).astype(np.float64) for x in outputs],
            None if gradients is None else [np.asarray(x).astype(np.float64) for x in gradients],
            [dtype_name(x) for x in outputs],
            [dtype_name(x) for x in gradients or ()],
        )


class TensorFlowDriver:
    """TensorFlow: ``eager``, ``graph`` with an unknown batch size, and ``xla``."""

    name = "tensorflow"
    modes = ("eager", "graph", "xla")
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self) -> None:
        self._traced: dict[Any, Any] = {}

    def run(
        self,
        mode: str,
        key: Any,
        function: Function,
        arrays: list[Float],
        constants: list[np.ndarray],
        upstream: Float | None,
        dtype: str,
        device: Any,
        known_axes: int = 0,
    ) -> Result:
        import tensorflow as tf

        def objective(inputs: Any, labels: Any, upstream: Any = None) -> Any:
            if upstream is None:
                return tuple(function(inputs, labels)), None
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = tuple(function(inputs, labels))
                scalar = tf.reduce_sum(outputs[0] * tf.cast(upstream, outputs[0].dtype))
            gradients = tape.gradient(scalar, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return outputs, gradients

        with tf.device(device):
            inputs = [tf.cast(tf.constant(x), dtype) for x in arrays]
            labels = [tf.constant(x) for x in constants]
            given = [inputs, labels] + ([] if upstream is None else [tf.cast(tf.constant(upstream), dtype)])
            run: Any = objective
            if mode != "eager":
                run = self._traced.get((key, dtype, mode))
            if run is None:
                signature = _signature(*given, known_axes=known_axes)
                run = tf.function(objective, jit_compile=mode == "xla", input_signature=signature)
                self._traced[key, dtype, mode] = run
            with _full_products():
                outputs, gradients = run(*given)
        return Result(
            [tf.cast(x, tf.float64).numpy() for x in outputs],
            None if gradients is None else [tf.cast(x, tf.float64).numpy() for x in gradients],
            [dtype_name(x) for x in outputs],
            [dtype_name(x) for x in gradients or ()],
        )


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


def _signature(inputs: list[Any], labels: list[Any], upstream: Any = None, *, known_axes: int) -> Any:
    """The embeddings come first: their leading axes, and those of the labels, are left unknown."""
    import tensorflow as tf

    z, *leaves = inputs
    unknown = [*z.shape[:known_axes], *[None] * (z.shape.rank - 1 - known_axes)]
    return [
        [tf.TensorSpec([*unknown, z.shape[-1]], z.dtype), *(tf.TensorSpec(x.shape, x.dtype) for x in leaves)],
        [
            tf.TensorSpec([None] * x.shape.rank if x.dtype.is_integer else [*unknown, x.shape[-1]], x.dtype)
            for x in labels
        ],
        *([] if upstream is None else [tf.TensorSpec([None] * upstream.shape.rank, upstream.dtype)]),
    ]
