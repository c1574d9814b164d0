"""The heads of a Matryoshka classifier, and the loss that they come to."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""An array of any backend: ``numpy.ndarray``, ``torch.Tensor``, ``jax.Array``, ``tf.Tensor``, or a plug-in's."""


class TiedHead(NamedTuple):
    """MRL-E: one classifier whose leading columns serve every granularity.

    ``logits_g = z[..., :m_g] @ weight[:, :m_g].T + bias``, with ``weight`` the paper's ``W`` and one bias,
    unsliced. The input embedding table ``(V, D)`` of a language model is such a weight.

    Attributes:
        weight: ``(C, D)`` floating, ``D`` at least the nesting's width.
        bias: ``(C,)`` floating, or ``None``.

    Example:
        >>> import mrl, numpy as np
        >>> head = mrl.TiedHead(np.zeros((10, 64), np.float32))
        >>> head.bias is None
        True

    Source: arXiv 2205.13147, section 3, "Efficient Matryoshka Representation Learning (MRL-E)".
    """

    weight: Array
    bias: Array | None = None


class NestedHead(NamedTuple):
    """MRL: a classifier of its own for every granularity.

    ``logits_g = z[..., :m_g] @ weights[g].T + biases[g]``, with ``weights[g]`` the paper's ``W^(m)``.

    Attributes:
        weights: one ``(C, m_g)`` floating array per granularity.
        biases: one ``(C,)`` floating array per granularity, or ``None``.

    Example:
        >>> import mrl, numpy as np
        >>> head = mrl.NestedHead(tuple(np.zeros((10, m), np.float32) for m in (8, 16)))
        >>> [weight.shape for weight in head.weights]
        [(10, 8), (10, 16)]

    Source: arXiv 2205.13147, section 3, equation 1.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...] | None = None


Head: TypeAlias = TiedHead | NestedHead


def head_leaves(head: Head) -> tuple[Array, ...]:
    """The arrays of a head, weights before biases."""
    if isinstance(head, TiedHead):
        return (head.weight,) if head.bias is None else (head.weight, head.bias)
    return (*head.weights, *(head.biases or ()))


def head_classes(head: Head) -> int:
    """``C``, the rows of any of its weights."""
    classes: int = head_leaves(head)[0].shape[0]
    return classes


class NestedLoss(NamedTuple):
    """A nested loss in nats: what to differentiate, and what to log.

    Attributes:
        total: ``sum_g weights[g] * per_level[g]``; a scalar, or one loss per example under
            ``reduction="none"``. Differentiable.
        per_level: ``(G,)``, or ``(G, ...)`` under ``reduction="none"``: the unweighted loss of each
            granularity, for logging. Carries no gradient.

    Example:
        >>> import mrl
        >>> mrl.NestedLoss(total=3.0, per_level=(2.0, 1.0)).total
        3.0

    Source: arXiv 2205.13147, equation 1.
    """

    total: Array
    per_level: Array
