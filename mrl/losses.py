"""Prefixes, logits and losses of a nesting: check, then dispatch on the type of the arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import checks
from .dispatch import backend_of
from .heads import Array, Head, NestedLoss
from .nesting import Nesting


def truncate(z: Array, dim: int, *, normalize: bool = True) -> Array:
    """The first ``dim`` dimensions of an embedding, L2-normalised.

    ``x / ||x||`` with ``x = z[..., :dim]``, or ``x`` itself under ``normalize=False``. A prefix with
    ``||x|| <= 1e-12`` gives zeros and a zero gradient. The norm is accumulated in float32 or wider and does
    not overflow.

    Args:
        z: ``(..., D)`` floating embeddings of any framework.
        dim: how many leading dimensions to keep, ``1 <= dim <= D``.
        normalize: divide each prefix by its norm.

    Returns:
        ``(..., dim)`` in the dtype and on the device of ``z``; differentiable any number of times. Under
        ``normalize=False`` it may share the memory of ``z``, as a slice of the framework does.

    Raises:
        TypeError: ``z`` is not a floating array, ``dim`` not an integer, ``normalize`` not a bool.
        ValueError: ``dim`` is not in ``[1, D]``.

    Example:
        >>> import mrl, numpy as np
        >>> mrl.truncate(np.array([3.0, 4.0, 12.0]), 2)
        array([0.6, 0.8])

    Source: arXiv 2205.13147, section 3 (a prefix is an embedding) and section 4.1 (each is normalised).
    """
    backend = backend_of({"z": z})
    checks.check_flag("normalize", normalize)
    dim = checks.check_integer("dim", dim, at_least=1)
    checks.check_dim("dim", dim, z)
    return backend.truncate(z, dim, normalize=bool(normalize))


def nested_logits(z: Array, head: Head, nesting: Nesting) -> Array:
    """The logits of every granularity.

    ``logits[g] = z[..., :m_g] @ W_g.T + b_g`` with ``m_g = nesting.dims[g]``; ``W_g`` is
    ``head.weight[:, :m_g]`` of a :class:`TiedHead` or ``head.weights[g]`` of a :class:`NestedHead`. A tied
    head costs one full-width product for all granularities together.

    Args:
        z: ``(..., D)`` floating embeddings, ``D >= nesting.width``; further dimensions are not used.
        head: a :class:`TiedHead` or :class:`NestedHead` with arrays of the same framework.
        nesting: the granularities.

    Returns:
        ``(G, ..., C)`` in float32 or wider; differentiable any number of times.

    Raises:
        TypeError: arrays of two frameworks, no arrays, or no floating dtype.
        ValueError: shapes that do not fit each other.

    Example:
        >>> import mrl, numpy as np
        >>> nesting = mrl.Nesting((1, 2))
        >>> mrl.nested_logits(np.array([[1.0, 10.0]]), mrl.TiedHead(np.ones((1, 2))), nesting).tolist()
        [[[1.0]], [[11.0]]]

    Source: arXiv 2205.13147, section 3, equation 1 (MRL) and its weight-tied form (MRL-E).
    """
    checks.check_nesting(nesting)
    arrays = checks.head_arrays(head, nesting)
    backend = backend_of({"z": z, **arrays})
    checks.check_embedding("z", z, nesting.width)
    checks.check_head(head, arrays, nesting)
    return backend.nested_logits(z, head, nesting)


def nested_cross_entropy(
    z: Array,
    head: Head,
    labels: Array,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    fused: bool = True,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """The Matryoshka classification loss: a weighted *sum* of one cross-entropy per granularity, in nats.

    ``total = sum_g w_g * mean_i CE(logits_g[i], y_i)`` with ``w_g = nesting.weights[g]``,
    ``y = labels``, ``logits_g`` those of :func:`nested_logits`, and with ``s = label_smoothing``
    ``CE = (1 - s) * (lse(logits) - logits[y]) + s * (lse(logits) - mean(logits))``.

    Args:
        z: ``(..., D)`` floating embeddings, ``D >= nesting.width``.
        head: a :class:`TiedHead` or :class:`NestedHead` with arrays of the same framework.
        labels: ``(...)`` integer class indices in ``[0, C)``.
        nesting: the granularities and their weights.
        label_smoothing: the share ``s`` in ``[0, 1]`` of the target spread evenly over the classes.
        ignore_index: examples with this label take no part, whatever their embedding holds; with none
            left the loss is 0 and so is its gradient. Any integer, in range or not.
        reduction: ``"mean"`` over the examples in use, ``"sum"``, or ``"none"``.
        fused: compute values and gradients a chunk of rows at a time, so that of a batch larger than one
            chunk ``(G, ..., C)`` never exists: differentiable once, in reverse, and under ``vmap`` in JAX only.
            ``False`` is the composed form: any order, forward mode and ``vmap``. Where JAX exports it for any number
            of rows, all rows are one chunk.
        chunk_rows: rows of one chunk of the fused form; ``None`` plans it from the sizes. The answer is
            the same.

    Returns:
        A :class:`NestedLoss` in float32 or wider: ``total`` is a scalar, or ``(...)`` under
        ``reduction="none"``; ``per_level`` is ``(G,)``, or ``(G, ...)``, unweighted and without gradient.
        Gradients have the dtypes of their arguments.

    Raises:
        TypeError: arrays of two frameworks, or an argument of a wrong kind.
        ValueError: shapes that do not fit, an option out of range, or a label out of range, with its
            value and position. Where labels cannot be seen without waiting (traced code, accelerators)
            the loss of such a label is NaN.
        RuntimeError, TypeError: of PyTorch and of the others, where the fused form is asked for more than one
            derivative in reverse. The message names ``fused=False``, but for those of JAX about what is already traced
            (``jit``, ``scan``, ``linearize``) and of PyTorch about compiled code.

    Example:
        >>> import mrl, numpy as np
        >>> nesting = mrl.Nesting((1, 2), weights=(1.0, 0.5))
        >>> z, labels = np.array([[0.0, 0.0]]), np.array([1])
        >>> loss = mrl.nested_cross_entropy(z, mrl.TiedHead(np.ones((4, 2))), labels, nesting)
        >>> bool(np.isclose(loss.total, 1.5 * np.log(4))), loss.per_level.shape
        (True, (2,))

    Source: arXiv 2205.13147, equation 1.
    """
    checks.check_nesting(nesting)
    arrays = checks.head_arrays(head, nesting)
    backend = backend_of({"z": z, **arrays, "labels": labels})
    checks.check_reduction(reduction)
    checks.check_flag("fused", fused)
    label_smoothing = checks.check_label_smoothing(label_smoothing)
    if ignore_index is not None:
        ignore_index = checks.check_integer("ignore_index", ignore_index)
    if chunk_rows is not None:
        chunk_rows = checks.check_integer("chunk_rows", chunk_rows, at_least=1)
    shape = checks.check_embedding("z", z, nesting.width)
    classes = checks.check_head(head, arrays, nesting)
    ignore_index = checks.check_labels(labels, shape[:-1], classes, ignore_index, backend)
    return backend.nested_cross_entropy(
        z,
        head,
        labels,
        nesting,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        fused=bool(fused),
        chunk_rows=chunk_rows,
    )


def nested(loss: Callable[..., Any], nesting: Nesting, *, normalize: bool = False) -> Callable[..., Any]:
    """Any loss of an embedding, made Matryoshka: the weighted sum of the loss of every prefix.

    ``nested_loss(z, *args, **kw) = sum_g w_g * loss(z[..., :m_g], *args, **kw)``, the prefix passed
    through :func:`truncate` under ``normalize=True``. Whatever ``loss`` returns is added up: a scalar, or
    one value per example.

    Args:
        loss: called as ``loss(prefix, *args, **kw)`` once per granularity.
        nesting: the granularities and their weights.
        normalize: L2-normalise each prefix, independently of the others.

    Returns:
        A function with the arguments of ``loss``; its result is of the kind that ``loss`` returns.

    Raises:
        TypeError: ``loss`` is not callable, ``nesting`` not a :class:`Nesting`, ``normalize`` not a bool;
            on a call, ``z`` is not a floating array, or ``loss`` returns no number or array.
        ValueError: on a call, ``z`` is narrower than the nesting.

    Example:
        >>> import mrl, numpy as np
        >>> energy = mrl.nested(lambda z: float((z**2).sum()), mrl.Nesting((1, 2), weights=(1.0, 10.0)))
        >>> energy(np.array([1.0, 2.0]))
        51.0

    Source: arXiv 2205.13147, equation 1 with any loss in place of the cross-entropy.
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a function of an embedding, got {type(loss).__name__}; pass a callable")
    checks.check_nesting(nesting)
    checks.check_flag("normalize", normalize)

    def nested_loss(z: Array, *args: Any, **kw: Any) -> Any:
        backend = backend_of({"z": z})
        checks.check_embedding("z", z, nesting.width)
        total: Any = None
        for dim, weight in zip(nesting.dims, nesting.weights, strict=True):
            prefix = backend.truncate(z, dim, normalize=bool(normalize))
            value = loss(prefix, *args, **kw)
            if value is None or isinstance(value, (tuple, list, dict)):
                raise TypeError(
                    f"loss: expected it to return a number or an array, got {type(value).__name__}; "
                    "return what is to be added up alone"
                )
            term = weight * value
            total = term if total is None else total + term
        return total

    return nested_loss
