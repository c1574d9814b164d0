"""A Matryoshka head as a layer of Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import mrl
from mrl import checks
from mrl.heads import Head, NestedHead, NestedLoss, TiedHead
from mrl.nesting import Nesting

from ..heads import level_of, sizes_of
from .configs import config_of, nesting_of


@keras.saving.register_keras_serializable(package="mrl")
class MatryoshkaHead(keras.layers.Layer):
    """A Matryoshka classifier that holds its weights: from ``(batch, ..., D)`` to logits ``(batch, ..., G, C)``.

    What :func:`mrl.nested_logits` does with a :class:`mrl.NestedHead`, or with a :class:`mrl.TiedHead` under
    ``tied=True``, with the batch first, as Keras wants it. Matrices are ``(C, m_g)`` as those of a head, or one
    ``(C, D)``, like an embedding table; in files they are the kernels of ``Dense``, ``(m_g, C)``. Factors have the
    layer's compute dtype, logits are float32 or wider.

    Args:
        nesting: the granularities and their weights.
        classes: ``C``, at least 1.
        tied: one matrix for all granularities (MRL-E), else one for each (MRL).
        use_bias: with biases ``(C,)``: one, or one for each granularity.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer: as those of ``Dense``.
        kwargs: ``name``, ``dtype``, ``trainable``, as any layer takes them.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: no classes; when built, an embedding narrower than the nesting.

    Example:
        >>> import keras, mrl, numpy as np
        >>> from mrl.adapters.keras import MatryoshkaHead
        >>> head = MatryoshkaHead(mrl.Nesting((8, 16)), classes=10)
        >>> z = np.ones((4, 16), "float32")
        >>> tuple(head(z).shape), tuple(head(z, dim=8).shape), tuple(head.predict(z).shape)
        ((4, 2, 10), (4, 10), (4,))

    Source: arXiv 2205.13147, section 3; initialised as ``keras.layers.Dense`` is.
    """

    def __init__(
        self,
        nesting: Nesting,
        classes: int,
        *,
        tied: bool = False,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.check_nesting(nesting)
        checks.check_flag("tied", tied)
        checks.check_flag("use_bias", use_bias)
        self.nesting = nesting
        self.classes = checks.check_integer("classes", classes, at_least=1)
        self.tied, self.use_bias = bool(tied), bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernels: list[Any] = []
        self.biases: list[Any] = []

    @classmethod
    def from_head(cls, head: Head, nesting: Nesting, **kwargs: Any) -> MatryoshkaHead:
        """A layer with copies of the arrays of ``head``, of whatever framework.

        Args:
            head: a :class:`mrl.TiedHead` or :class:`mrl.NestedHead`.
            nesting: its granularities.
            kwargs: of the layer; ``dtype`` is that of the arrays if not said otherwise.

        Raises:
            TypeError: it is no head.
            ValueError: it does not fit the nesting.

        Example:
            >>> import mrl
            >>> nesting = mrl.Nesting((8, 16))
            >>> head = mrl.init_head(nesting, 10, tied=True, backend="numpy", seed=0)
            >>> [tuple(weight.shape) for weight in MatryoshkaHead.from_head(head, nesting).weights]
            [(10, 16), (10,)]
        """
        (classes, width), tied = sizes_of(head, nesting), isinstance(head, TiedHead)
        given = mrl.convert(head, "numpy")
        kernels = [given.weight] if tied else list(given.weights)
        biases = [given.bias] if tied else list(given.biases or (None,))
        use_bias = biases[0] is not None
        made = cls(nesting, classes, tied=tied, use_bias=use_bias, **{"dtype": kernels[0].dtype.name, **kwargs})
        made.build((None, width))
        made.set_weights(kernels + (biases if use_bias else []))
        return made

    @property
    def head(self) -> Head:
        """The weights as a head of the backend's arrays, for the functions of :mod:`mrl`, with their gradients."""
        return self._head(self.variable_dtype)

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        if width is None or width < self.nesting.width:
            raise ValueError(
                f"z: expected shape (batch, ..., D) with D at least {self.nesting.width}, got {tuple(input_shape)}; "
                "widen the embedding or leave out the larger granularities"
            )
        widths = [width] if self.tied else self.nesting.dims

        def drawn(shape: tuple[int, int], dtype: Any = None) -> Any:
            """As a kernel of ``Dense``; anew for each, because an initializer of Keras repeats itself."""
            again = getattr(self.kernel_initializer, "clone", lambda: self.kernel_initializer)()
            return ops.transpose(again(shape[::-1], dtype=dtype))

        for g, dim in enumerate(widths):
            name, shape = ("kernel" if self.tied else f"kernel_{g}"), (self.classes, dim)
            made = self.add_weight(name=name, shape=shape, initializer=drawn, regularizer=self.kernel_regularizer)
            self.kernels.append(made)
        for g in range(len(widths) if self.use_bias else 0):
            made = self.add_weight(
                name="bias" if self.tied else f"bias_{g}",
                shape=(self.classes,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
            )
            self.biases.append(made)
        self.built = True

    def call(self, z: Any, dim: int | None = None) -> Any:
        """Logits ``(batch, ..., G, C)``, or ``(batch, ..., C)`` of the granularity ``dim``."""
        z, head = ops.cast(z, self.compute_dtype), self._head(self.compute_dtype)
        if dim is None:
            return ops.moveaxis(mrl.nested_logits(z, head, self.nesting), 0, -2)
        g = level_of(self.nesting, dim)
        if isinstance(head, TiedHead):
            alone = TiedHead(head.weight[:, :dim], head.bias)
        else:
            alone = TiedHead(head.weights[g], None if head.biases is None else head.biases[g])
        return mrl.nested_logits(z[..., :dim], alone, Nesting((dim,)))[0]

    def compute_output_shape(self, input_shape: Any, dim: int | None = None) -> tuple[int | None, ...]:
        levels = (len(self.nesting),) if dim is None else ()
        return (*input_shape[:-1], *levels, self.classes)

    def compute_output_spec(self, z: Any, dim: int | None = None) -> keras.KerasTensor:
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        return keras.KerasTensor(self.compute_output_shape(z.shape, dim), dtype=dtype)

    def loss(self, z: Any, labels: Any, **options: Any) -> NestedLoss:
        """The fused loss of embeddings, without their logits: :func:`mrl.nested_cross_entropy` with this head.

        Args:
            z: ``(batch, ..., D)`` floating embeddings, cast to the compute dtype.
            labels, options: as that function takes them: integers, or a probability for every class.

        Raises:
            TypeError, ValueError: as that function raises them.
        """
        if not self.built:
            self.build(z.shape)
        z = ops.cast(z, self.compute_dtype)
        return mrl.nested_cross_entropy(z, self._head(self.compute_dtype), labels, self.nesting, **options)

    def predict(self, z: Any, dim: int | None = None) -> Any:
        """``(batch, ...)`` labels at one granularity, ``None`` for the largest; of equal logits the lowest class.

        Raises:
            TypeError: ``dim`` is no integer.
            ValueError: the nesting has no such granularity.
        """
        return ops.argmax(self(z, dim=self.nesting.dims[level_of(self.nesting, dim)]), axis=-1)

    def at(self, dim: int) -> keras.layers.Dense:
        """The classifier of one granularity as a layer of its own, with copies of the weights, for export.

        Args:
            dim: one of the nesting's; the layer takes the first ``dim`` dimensions of an embedding.

        Raises:
            TypeError, ValueError: as :meth:`predict`.
        """
        g = level_of(self.nesting, checks.check_integer("dim", dim))
        level = 0 if self.tied else g
        layer = keras.layers.Dense(self.classes, use_bias=self.use_bias, dtype=self.dtype_policy)
        layer.build((None, self.nesting.dims[g]))
        kernel = ops.convert_to_numpy(self.kernels[level])[:, : self.nesting.dims[g]]
        layer.set_weights([kernel.T, *([ops.convert_to_numpy(self.biases[level])] if self.use_bias else [])])
        return layer

    def save_own_variables(self, store: Any) -> None:
        """Numbered as any layer's, kernels as those of ``Dense``: :func:`mrl.read_head` reads them so."""
        for i, variable in enumerate([*self.kernels, *self.biases]):
            store[str(i)] = np.ascontiguousarray(np.transpose(ops.convert_to_numpy(variable)))

    def load_own_variables(self, store: Any) -> None:
        variables = [*self.kernels, *self.biases]
        if len(store.keys()) != len(variables):
            raise ValueError(
                f"{self.name}: expected {len(variables)} variables, got {len(store.keys())}; build the layer for the "
                "embedding, nesting and biases that it was saved with"
            )
        for i, variable in enumerate(variables):
            variable.assign(np.transpose(store[str(i)]))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "nesting": config_of(self.nesting),
            "classes": self.classes,
            "tied": self.tied,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MatryoshkaHead:
        return cls(**nesting_of(config))

    def factors(self, z: Any) -> tuple[Any, ...]:
        """``z`` and the weights, kernels before biases, in the compute dtype, each read once."""
        # TensorFlow would hand on the variable itself, and read it anew for each use.
        given = [getattr(x.value, "read_value", lambda x=x: x.value)() for x in (*self.kernels, *self.biases)]
        return tuple(ops.convert_to_tensor(x, dtype=self.compute_dtype) for x in (z, *given))

    def head_of(self, leaves: Sequence[Any]) -> Head:
        """The head of arrays like those of :meth:`factors`; what comes after them is left out."""
        count = len(self.kernels)
        kernels, biases = tuple(leaves[:count]), tuple(leaves[count : count + len(self.biases)]) or None
        if self.tied:
            return TiedHead(kernels[0], biases and biases[0])
        return NestedHead(kernels, biases)

    def _head(self, dtype: str) -> Head:
        return self.head_of([ops.convert_to_tensor(x, dtype=dtype) for x in (*self.kernels, *self.biases)])
