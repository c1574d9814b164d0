"""Prefixes, logits and losses of a nesting: check, then dispatch on the type of the arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import checks
from .arguments import take
from .dispatch import settle
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
        ``(..., dim)`` in the dtype and on the device of ``z``, in memory of its own; differentiable at will.

    Raises:
        TypeError: ``z`` is not a floating array, ``dim`` not an integer, ``normalize`` not a bool.
        ValueError: ``dim`` is not in ``[1, D]``.

    Example:
        >>> import mrl, numpy as np
        >>> mrl.truncate(np.array([3.0, 4.0, 12.0]), 2)
        array([0.6, 0.8])

    Source: arXiv 2205.13147, section 3 (a prefix is an embedding) and section 4.1 (each is normalised).
    """
    backend, given = settle({"z": z})
    z = given["z"]
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
    backend, z, head, arrays, _ = take(z, head, nesting)
    shape = checks.check_embedding("z", z, nesting.width)
    checks.check_head(head, arrays, nesting, shape)
    return backend.nested_logits(z, head, nesting)


def nested_cross_entropy(
    z: Array,
    head: Head,
    labels: Array,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    level_weights: Array | None = None,
    reduction: str = "mean",
    fused: bool = True,
    chunk_rows: int | None = None,
    across: Any = None,
    classes_across: Any = None,
) -> NestedLoss:
    """The Matryoshka classification loss: a weighted *sum* of one cross-entropy per granularity, in nats.

    ``total = sum_g w_g * mean_i CE(logits_g[i], y_i)`` with ``w_g = nesting.weights[g] * level_weights[g]``,
    ``y = labels``, ``logits_g`` those of :func:`nested_logits`, and ``CE = sum_c u_c * (lse(logits) - logits[c])``.
    There ``u_c = class_weight[c] * ((1 - s) * t_c + s / C)`` with ``s = label_smoothing`` and ``t`` 1 for the label and
    0 elsewhere, or the probabilities that are given. A class with ``u_c = 0`` has no part, also where its logit is
    minus infinity; with ``u_c > 0`` such a logit makes the loss infinite.

    Args:
        z: ``(..., D)`` floating embeddings, ``D >= nesting.width``.
        head: a :class:`TiedHead`, as wide as ``z``, or a :class:`NestedHead`, with arrays of the same framework.
        labels: ``(...)`` integer class indices in ``[0, C)``; or ``(..., C)`` floating probabilities ``t`` (of mixed or
            distilled targets), whose rows need not sum to 1.
        nesting: the granularities and their weights. A granularity of weight 0 is left out, of the work too: its entry
            of ``per_level``, which is not computed, is NaN.
        label_smoothing: the share ``s`` in ``[0, 1]`` of the target spread evenly over the classes.
        ignore_index: examples with this label take no part, whatever their embedding holds; with none
            left the loss is 0 and so is its gradient. Any integer, in range or not; ``None`` beside probabilities.
        sample_weight: ``(...)`` floating, not negative: what each example's loss is multiplied by.
        class_weight: ``(C,)`` floating, not negative: what each class's share of a target is multiplied by.
        level_weights: ``(G,)`` floating, not negative: what the nesting's weights are multiplied by. Unlike those it is
            data: weights that change from step to step compile once.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean is the sum divided by that of ``sample_weight`` times,
            for class indices, ``class_weight[y]``, over the examples in use: their number without weights. Where that
            is 0, so is the loss.
        fused: compute values and gradients a chunk of rows at a time, so that of a batch larger than one
            chunk ``(G, ..., C)`` never exists: differentiable once, in reverse, and under ``vmap`` in JAX only.
            ``False`` is the composed form: any order, forward mode and ``vmap``. Where JAX exports it for any number
            of rows, all rows are one chunk.
        chunk_rows: rows of one chunk of the fused form; ``None`` plans it from the sizes. The answer is
            the same.
        across: the devices whose examples are one batch, as for :func:`mrl.nested_contrastive`: the weights or counts
            of the mean are those of all of them, so that the mean over devices of the loss is that of the joint batch
            (and of ``"sum"``, its sum), and so are gradients once the engine has averaged them.
        classes_across: in PyTorch, ``True`` or the process group over which the classes are shared out: ``head`` holds
            ``C / R`` rows of every matrix and bias, those of process ``r`` from ``r C / R``. Embeddings and labels are
            the same on all of the group, and so are the loss and the gradient of ``z``, which is complete; only a row's
            largest logit, sum of exponentials and own logit travel, not its logits. Fused, and without
            ``class_weight`` and probabilities. In JAX a sharding of the head does this by itself.

    Returns:
        A :class:`NestedLoss` in float32 or wider: ``total`` is a scalar, or ``(...)`` under
        ``reduction="none"``; ``per_level`` is ``(G,)``, or ``(G, ...)``, unweighted and without gradient.
        Gradients have the dtypes of their arguments; only ``z`` and the head have one.

    Raises:
        TypeError: arrays of two frameworks (but for NumPy's beside JAX's or TensorFlow's, which are taken), or an
            argument of a wrong kind.
        ValueError: shapes that do not fit, an option out of range, or a label out of range, or a weight below 0 or not
            finite, with its value and position. Where they cannot be seen without waiting (traced code, accelerators)
            the loss of such a label, or with a weight that is negative or NaN, is NaN.
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

    Source: arXiv 2205.13147, equation 1; class weights, probabilities, smoothing as in PyTorch's ``F.cross_entropy``.
    """
    checks.check_nesting(nesting)
    given = take(
        z,
        head,
        nesting,
        labels=labels,
        sample_weight=sample_weight,
        class_weight=class_weight,
        level_weights=level_weights,
    )
    backend, labels = given.backend, given.others["labels"]
    checks.check_reduction(reduction)
    checks.check_flag("fused", fused)
    label_smoothing = checks.check_label_smoothing(label_smoothing)
    if ignore_index is not None:
        ignore_index = checks.check_integer("ignore_index", ignore_index)
    if chunk_rows is not None:
        chunk_rows = checks.check_integer("chunk_rows", chunk_rows, at_least=1)
    shape = checks.check_embedding("z", given.z, nesting.width)
    classes = checks.check_head(given.head, given.arrays, nesting, shape)
    # A backend that knows nothing of other devices is not told of none.
    devices = {
        name: value for name, value in (("across", across), ("classes_across", classes_across)) if value is not None
    }
    if classes_across is not None:
        classes *= checks.check_sharded(backend, classes_across, labels, class_weight, fused)
    ignore_index = checks.check_targets(labels, shape[:-1], classes, ignore_index, backend)
    expected = {"sample_weight": shape[:-1], "class_weight": (classes,), "level_weights": (len(nesting),)}
    weights = {name: given.others[name] for name in expected}
    for name, array in weights.items():
        if array is not None:
            ignored = name == "sample_weight" and ignore_index is not None
            checks.check_weights(
                name, array, expected[name], backend, labels=labels if ignored else None, ignore_index=ignore_index
            )
    return backend.nested_cross_entropy(
        given.z,
        given.head,
        labels,
        nesting,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        **weights,
        reduction=reduction,
        fused=bool(fused),
        chunk_rows=chunk_rows,
        **devices,
    )


def nested(loss: Callable[..., Any], nesting: Nesting, *, normalize: bool = False) -> Callable[..., Any]:
    """Any loss of an embedding, or of several, made Matryoshka: the weighted sum of the loss of every prefix.

    ``nested_loss(z, *args, **kw) = sum_g w_g * loss(z[..., :m_g], *args, **kw)``, the prefix passed
    through :func:`truncate` under ``normalize=True``. Whatever ``loss`` returns is added up: a scalar, or
    one value per example. Every prefix is in memory of its own, so that ``loss`` may work in place; it is not called
    for granularities of weight 0. In place of ``z`` there may be a tuple of embeddings, of which every one is cut:
    ``nested_loss((z, t), *args) = sum_g w_g * loss((z[..., :m_g], t[..., :m_g]), *args)``. What is not cut, a teacher's
    full-width embedding, say, goes with the other arguments.

    Args:
        loss: called as ``loss(prefix, *args, **kw)`` once per granularity; the prefix is a tuple where a tuple came.
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
        >>> apart = mrl.nested(lambda pair: float(((pair[0] - pair[1]) ** 2).sum()), mrl.Nesting((1, 2)))
        >>> apart((np.array([1.0, 2.0]), np.array([0.0, 0.0])))
        6.0

    Source: arXiv 2205.13147, equation 1 with any loss in place of the cross-entropy.
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a function of an embedding, got {type(loss).__name__}; pass a callable")
    checks.check_nesting(nesting)
    checks.check_flag("normalize", normalize)

    def nested_loss(z: Array, *args: Any, **kw: Any) -> Any:
        several = isinstance(z, (tuple, list))
        if several and not z:
            raise ValueError("z: expected an embedding, or a tuple of some, got an empty one; pass what is to be cut")
        backend, given = settle({f"z[{i}]": x for i, x in enumerate(z)} if several else {"z": z})
        for name, x in given.items():
            checks.check_embedding(name, x, nesting.width)
        total: Any = None
        for g in nesting.levels_in_use:
            dim, weight = nesting.dims[g], nesting.weights[g]
            cut = tuple(backend.truncate(x, dim, normalize=bool(normalize)) for x in given.values())
            value = loss(cut if several else cut[0], *args, **kw)
            if value is None or isinstance(value, (tuple, list, dict)):
                raise TypeError(
                    f"loss: expected it to return a number or an array, got {type(value).__name__}; "
                    "return what is to be added up alone"
                )
            term = weight * value
            total = term if total is None else total + term
        return total

    return nested_loss
