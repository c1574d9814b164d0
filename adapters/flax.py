"""Matryoshka heads as modules of Flax NNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import mrl
from mrl import checks
from mrl.heads import Head, NestedHead, NestedLoss, TiedHead, head_leaves
from mrl.nesting import Nesting

from .heads import check_call, level_of, sizes_of


class MatryoshkaHead(nnx.Module):
    """A Matryoshka classifier that holds its parameters: ``head(z)`` are logits, ``head(z, labels)`` is the loss.

    What :func:`mrl.nested_logits` and :func:`mrl.nested_cross_entropy` do with a :class:`mrl.NestedHead`, or with a
    :class:`mrl.TiedHead` under ``tied=True``, whose matrices are transposed here, as Flax has them, and each an
    ``nnx.Param``: ``kernels`` and ``biases``, an ``nnx.List`` each, or ``kernel`` and ``bias`` of a tied head. The
    state is one of the layout ``flax`` of :func:`mrl.read_head`.

    Args:
        nesting: the granularities and their weights.
        classes: ``C``, at least 1.
        tied: one kernel ``(m_G, C)`` for all granularities (MRL-E), else one ``(m_g, C)`` for each (MRL).
        bias: with biases ``(C,)``: one, or one for each granularity.
        param_dtype: of the parameters.
        rngs: their keys are those of ``rngs.params()``, of each kernel and its bias in turn.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: no classes.

    Example:
        >>> import jax, mrl
        >>> from flax import nnx
        >>> from mrl.adapters.flax import MatryoshkaHead
        >>> head = MatryoshkaHead(mrl.Nesting((8, 16)), classes=10, rngs=nnx.Rngs(0))
        >>> z, labels = jax.random.normal(jax.random.key(0), (4, 16)), jax.numpy.array([3, 1, 4, 1])
        >>> gradients = nnx.grad(lambda head: head(z, labels).total)(head)
        >>> head(z).shape, head.predict(z, dim=8).shape, gradients.kernels[1].shape
        ((2, 4, 10), (4,), (16, 10))

    Source: arXiv 2205.13147, section 3; initialised as ``nnx.Linear`` is, with ``lecun_normal`` kernels and no bias.
    """

    def __init__(
        self,
        nesting: Nesting,
        classes: int,
        *,
        tied: bool = False,
        bias: bool = True,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        checks.check_nesting(nesting)
        checks.check_flag("tied", tied)
        checks.check_flag("bias", bias)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs: expected an nnx.Rngs, got {type(rngs).__name__}; write nnx.Rngs(0)")
        self.nesting = nesting
        self.classes = checks.check_integer("classes", classes, at_least=1)
        self.tied = bool(tied)
        layers = [
            nnx.Linear(dim, self.classes, use_bias=bool(bias), param_dtype=param_dtype, rngs=rngs)
            for dim in ((nesting.width,) if tied else nesting.dims)
        ]
        self._hold([layer.kernel for layer in layers], [layer.bias for layer in layers] if bias else None)

    @classmethod
    def from_head(cls, head: Head, nesting: Nesting) -> MatryoshkaHead:
        """A module with copies of the arrays of ``head``, of whatever framework.

        Args:
            head: a :class:`mrl.TiedHead` or :class:`mrl.NestedHead`; its arrays keep their dtypes.
            nesting: its granularities.

        Raises:
            TypeError: it is no head.
            ValueError: it does not fit the nesting, or has 64-bit numbers where JAX has none.

        Example:
            >>> import mrl
            >>> nesting = mrl.Nesting((8, 16))
            >>> head = mrl.init_head(nesting, 10, tied=True, backend="numpy", seed=0)
            >>> MatryoshkaHead.from_head(head, nesting)
            MatryoshkaHead(Nesting((8, 16)), classes=10, tied=True, bias=True)
        """
        checks.check_nesting(nesting)
        head = mrl.convert(head, "jax")
        (classes, _), tied = sizes_of(head, nesting), isinstance(head, TiedHead)
        leaves = [_copied(leaf.T) for leaf in head_leaves(head)]  # a vector's transpose is the vector
        levels = 1 if tied else len(nesting)
        kernels, biases = leaves[:levels], leaves[levels:] or None
        bias = biases is not None
        made: MatryoshkaHead = nnx.eval_shape(lambda: cls(nesting, classes, tied=tied, bias=bias, rngs=nnx.Rngs(0)))
        made._hold(kernels, biases)
        return made

    @property
    def head(self) -> Head:
        """The parameters as a head, for the functions of :mod:`mrl`: arrays, and differentiable as such."""
        if self.tied:
            return TiedHead(self.kernel[...].T, None if self.bias is None else self.bias[...])
        biases = None if self.biases is None else tuple(bias[...] for bias in self.biases)
        return NestedHead(tuple(kernel[...].T for kernel in self.kernels), biases)

    def __call__(
        self, z: Array, labels: Array | None = None, *, num_items: int | Array | None = None, **options: Any
    ) -> Array | NestedLoss:
        """Logits, or with ``labels`` the loss.

        Args:
            z: ``(..., D)`` floating embeddings.
            labels: as :func:`mrl.nested_cross_entropy` takes them; ``None`` for logits.
            num_items: divide the *sum* of the losses by this: the number of examples in all the batches whose
                gradients are accumulated, on all devices. Where it is 0, so is the loss. Takes the place of
                ``reduction``. An array of a negative number makes the loss NaN.
            options: of :func:`mrl.nested_cross_entropy`.

        Returns:
            ``(G, ..., C)`` logits, or a :class:`mrl.NestedLoss`.

        Raises:
            TypeError: options without labels, ``reduction`` beside ``num_items``, or as the functions raise it.
            ValueError: a ``num_items`` below 0 or of more than one number, or as the functions raise it.
        """
        check_call(labels, num_items, options)
        if labels is None:
            return mrl.nested_logits(z, self.head, self.nesting)
        if num_items is None:
            return mrl.nested_cross_entropy(z, self.head, labels, self.nesting, **options)
        _check_num_items(num_items)
        loss = mrl.nested_cross_entropy(z, self.head, labels, self.nesting, reduction="sum", **options)
        return NestedLoss(*(_share(x, num_items) for x in loss))

    def loss(self, z: Array, labels: Array, **options: Any) -> NestedLoss:
        """``self(z, labels, **options)``, by name: a :class:`mrl.NestedLoss`."""
        found: NestedLoss = self(z, labels, **options)
        return found

    def predict(self, z: Array, dim: int | None = None) -> Array:
        """The label of every example at one granularity, ``None`` for the largest.

        Args:
            z: ``(..., D)`` floating embeddings, of which the first ``dim`` dimensions are used.
            dim: one of the nesting's.

        Returns:
            ``(...)`` integers; of equal logits the lowest class.

        Raises:
            TypeError: ``dim`` is no integer, or ``z`` no floating array.
            ValueError: the nesting has no such granularity, or ``z`` is narrower.
        """
        dim, kernel, bias = self._level(dim)
        prefix = mrl.truncate(z, dim, normalize=False)
        return mrl.nested_logits(prefix, TiedHead(kernel.T, bias), Nesting((dim,)))[0].argmax(-1)

    def at(self, dim: int) -> nnx.Linear:
        """The classifier of one granularity as a layer of its own, with copies of the parameters, for export.

        Args:
            dim: one of the nesting's; the layer takes the first ``dim`` dimensions of an embedding.

        Raises:
            TypeError, ValueError: as :meth:`predict`.
        """
        dim, kernel, bias = self._level(dim)
        use_bias, dtype = bias is not None, kernel.dtype
        layer: nnx.Linear = nnx.eval_shape(
            lambda: nnx.Linear(dim, self.classes, use_bias=use_bias, param_dtype=dtype, rngs=nnx.Rngs(0))
        )
        layer.kernel = _copied(kernel)
        if use_bias:
            layer.bias = _copied(bias)
        return layer

    def __repr__(self) -> str:
        """In a line; ``print`` shows the parameters, too, as of any module."""
        bias = (self.bias if self.tied else self.biases) is not None
        return f"MatryoshkaHead({self.nesting}, classes={self.classes}, tied={self.tied}, bias={bias})"

    def _hold(self, kernels: Sequence[nnx.Param], biases: Sequence[nnx.Param] | None) -> None:
        if self.tied:
            self.kernel = kernels[0]
            self.bias = nnx.data(None) if biases is None else biases[0]
        else:
            self.kernels = nnx.List(kernels)
            self.biases = nnx.data(None) if biases is None else nnx.List(biases)

    def _level(self, dim: int | None) -> tuple[int, Array, Array | None]:
        """``m_g``, its kernel and ``b_g``."""
        g = level_of(self.nesting, dim)
        dim = self.nesting.dims[g]
        if self.tied:
            kernel, bias = self.kernel[:dim], self.bias
        else:
            kernel, bias = self.kernels[g][...], None if self.biases is None else self.biases[g]
        return dim, kernel, None if bias is None else bias[...]


def _copied(array: Array) -> nnx.Param:
    # In memory of its own: a step that donates its arguments deletes theirs.
    return nnx.Param(jnp.array(array))


def _check_num_items(num_items: Any) -> None:
    if isinstance(num_items, (int, float, np.integer, np.floating)) and not isinstance(num_items, bool):
        if not num_items >= 0:
            raise ValueError(f"num_items: expected a number of examples of at least 0, got {num_items}; count again")
    elif not hasattr(num_items, "dtype"):
        raise TypeError(f"num_items: expected a number of examples, got {num_items!r}; count the labels in use")
    elif num_items.shape != ():
        raise ValueError(f"num_items: expected one number, got shape {num_items.shape}; sum the counts")


def _share(total: Array, num_items: int | Array) -> Array:
    count = jnp.asarray(num_items, total.dtype)
    # Not divided by 0, so that the gradient is 0, too.
    shared = total / jnp.where(count > 0, count, jnp.where(count == 0, 1, jnp.nan))
    return jnp.where(count == 0, 0, shared)
