"""The nested contrastive loss of in-batch negatives: check, then dispatch on the type of the arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import checks
from .dispatch import settle
from .heads import Array, NestedLoss
from .nesting import Nesting, to_float
from .protocol import Backend

SIMILARITIES = ("cosine", "dot")


def nested_contrastive(
    anchors: Array,
    positives: Array,
    nesting: Nesting,
    *,
    negatives: Array | None = None,
    temperature: float | Array = 0.05,
    symmetric: bool = False,
    exclude: Array | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    fused: bool = True,
    chunk_rows: int | None = None,
    across: Any = None,
) -> NestedLoss:
    """The Matryoshka loss of in-batch negatives: a weighted *sum* of one InfoNCE loss per granularity, in nats.

    ``total = sum_g w_g * mean_i (lse_j s_g[i, j] - s_g[i, i])`` with ``w_g = nesting.weights[g]``,
    ``s_g = a_g @ c_g.T / temperature_g``, ``a_g`` the prefixes ``[:, :m_g]`` of the anchors, and ``c_g`` those of the
    positives and then of the negatives; under ``similarity="cosine"`` each prefix is divided by its own norm, as
    :func:`truncate` does it. All granularities together cost one full-width product forward and two backward, and of
    a batch larger than one chunk no array of ``(G, B, M)`` exists.

    Args:
        anchors: ``(B, D)`` floating embeddings, ``D >= nesting.width``: queries, images.
        positives: ``(B, D)``; row ``i`` belongs to anchor ``i``, and is a negative of every other anchor.
        nesting: the granularities and their weights. A granularity of weight 0 is left out, of the work too: its entry
            of ``per_level``, which is not computed, is NaN.
        negatives: ``(..., D)``: every row is a further candidate of every anchor. Leading axes flatten.
        temperature: a positive number; or an array of the framework, ``()`` or ``(G,)`` for one a granularity, which
            then has its gradient.
        symmetric: half of that loss and half of the other direction, each positive among all anchors, without the
            negatives.
        exclude: ``(B, M)`` bool, ``M`` the number of positives and negatives: true takes a candidate out for that
            anchor (a duplicate, a false negative), and the anchor for that positive. Never an anchor's own positive.
        similarity: ``"cosine"``, or ``"dot"`` for prefixes as they are.
        reduction: ``"mean"`` over anchors, ``"sum"``, or ``"none"``.
        fused: compute values and gradients a chunk of anchors at a time: differentiable once, in reverse. ``False`` is
            the composed form, level by level: any order, forward mode and ``vmap``.
        chunk_rows: anchors of one chunk of the fused form; ``None`` plans it from the sizes. The answer is the same.
        across: the devices whose embeddings are candidates too: ``True`` or a process group in PyTorch; the name of a
            mapped axis, or a tuple of them, in JAX (``shard_map``, ``pmap``); ``True`` inside a replica context of
            ``tf.distribute``. Every device has as many rows; candidates are the positives of all devices in order, then
            the negatives, and so are the columns of ``exclude``. The mean over devices of the loss is that of the joint
            batch, and once the engine has averaged them every gradient is that of one device with the whole batch.

    Returns:
        A :class:`NestedLoss` in float32 or wider: ``total`` is a scalar, or ``(B,)`` under ``reduction="none"``;
        ``per_level`` is ``(G,)``, or ``(G, B)``, unweighted and without gradient. Gradients have the dtypes of their
        arguments. Of no anchors the loss is 0.

    Raises:
        TypeError: arrays of two frameworks (but for NumPy's beside JAX's or TensorFlow's), or an argument of a wrong
            kind.
        ValueError: shapes that do not fit, an option out of range; a temperature that is not positive, or an anchor
            whose own positive is excluded. Where these two cannot be seen without waiting, the loss is NaN. Devices
            with unequal numbers of rows.
        RuntimeError, TypeError: of PyTorch and of the others, where the fused form is asked for more than one
            derivative in reverse; the message names ``fused=False``.

    Example:
        >>> import mrl, numpy as np
        >>> a = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> loss = mrl.nested_contrastive(a, a, mrl.Nesting((1, 2)), temperature=1.0)
        >>> loss.per_level.round(6).tolist()
        [0.503204, 0.313262]

    Source: arXiv 2205.13147, section 4 (ALIGN); the loss is that of arXiv 2102.05918, equations 1 and 2, and, of one
    direction, of arXiv 1807.03748, equation 4.
    """
    checks.check_nesting(nesting)
    arrays = {"anchors": anchors, "positives": positives, "negatives": negatives, "exclude": exclude}
    learnt = not isinstance(temperature, (int, float, np.integer, np.floating)) or isinstance(temperature, bool)
    if learnt:
        arrays["temperature"] = temperature
    backend, given = settle({name: array for name, array in arrays.items() if array is not None})
    for name, flag in (("symmetric", symmetric), ("fused", fused)):
        checks.check_flag(name, flag)
    checks.check_reduction(reduction)
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity: expected one of {SIMILARITIES}, got {similarity!r}; choose one")
    if chunk_rows is not None:
        chunk_rows = checks.check_integer("chunk_rows", chunk_rows, at_least=1)
    count, candidates = _check_embeddings(given, nesting)
    if learnt:
        temperature = given["temperature"]
        _check_temperatures(temperature, len(nesting), backend)
    else:
        temperature = to_float(temperature)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}; 0.05 is usual")
    if exclude is not None:
        _check_excluded(given["exclude"], (count, None if across is not None else candidates), across, backend)
    return backend.nested_contrastive(
        given["anchors"],
        given["positives"],
        nesting,
        negatives=given.get("negatives"),
        temperature=temperature,
        exclude=given.get("exclude"),
        symmetric=bool(symmetric),
        similarity=similarity,
        reduction=reduction,
        fused=bool(fused),
        chunk_rows=chunk_rows,
        across=across,
    )


def _check_embeddings(given: dict[str, Array], nesting: Nesting) -> tuple[int | None, int | None]:
    """The number of anchors and that of candidates, where they are known."""
    shape = checks.check_embedding("anchors", given["anchors"], nesting.width)
    if len(shape) != 2:
        raise ValueError(
            f"anchors: expected shape (B, D), because every row meets every other, got {tuple(shape)}; "
            "reshape to (-1, D), or map the function over the leading axes"
        )
    other = checks.check_embedding("positives", given["positives"], nesting.width)
    if len(other) != 2 or not checks.compatible(other, shape):
        raise ValueError(
            f"positives: expected shape {tuple(shape)}, one row for every anchor, got {tuple(other)}; "
            "pass what else there is as negatives"
        )
    count: int | None = other[0] if shape[0] is None else shape[0]
    if "negatives" not in given:
        return count, count
    rows = checks.check_embedding("negatives", given["negatives"], nesting.width)
    if rows[-1] != shape[-1]:
        raise ValueError(f"negatives: expected shape (..., {shape[-1]}), as wide as the anchors, got {tuple(rows)}")
    if count is None or None in rows:
        return count, None
    further: Any = 1
    for size in rows[:-1]:  # by hand, because a compiler knows no product of sizes that may change
        further = further * size
    return count, count + further


def _check_temperatures(temperature: Array, levels: int, backend: Backend) -> None:
    checks.check_floating("temperature", temperature)
    shape = checks.shape_of("temperature", temperature)
    if shape not in ((), (levels,)):
        raise ValueError(
            f"temperature: expected a number, or an array of shape () or ({levels},), one for each granularity, got "
            f"shape {tuple(shape)}"
        )
    values = backend.to_numpy(temperature, blocking=False)
    if values is not None and not np.all((values > 0) & (values < np.inf)):
        raise ValueError(
            f"temperature: expected finite numbers above 0, got {np.asarray(values, np.float64).tolist()}; learn its "
            "logarithm, and pass exp of it"
        )


def _check_excluded(exclude: Array, expected: tuple[int | None, int | None], across: Any, backend: Backend) -> None:
    if checks.dtype_name(exclude) not in ("bool", "bool_"):
        raise TypeError(f"exclude: expected a bool array, got {checks.dtype_name(exclude)}; compare to make one")
    shape = checks.shape_of("exclude", exclude)
    if len(shape) != 2 or not checks.compatible(shape, expected):
        raise ValueError(
            f"exclude: expected shape (B, M) = {expected}, a candidate of an anchor each, got {tuple(shape)}; "
            "M counts the positives and then the negatives" + ("" if across is None else " of all devices")
        )
    values = None if across is not None else backend.to_numpy(exclude, blocking=False)
    if values is not None and np.diagonal(values).any():
        place = int(np.flatnonzero(np.diagonal(values))[0])
        raise ValueError(
            f"exclude: expected no anchor's own positive, got True at ({place}, {place}); keep the diagonal False"
        )
