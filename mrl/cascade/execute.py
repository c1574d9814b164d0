"""Running a cascade: on what is known of every level, or computing no more than each row needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..arguments import take
from ..dispatch import settle
from ..heads import Array, Head
from .policy import CascadePolicy, CascadeResult, check_policy

TOLERANCE = {"float16": 1e-2, "bfloat16": 2e-2, "float32": 1e-3, "float64": 1e-3}
"""How far probabilities and confidences may lie outside [0, 1], and a row's sum from 1, by dtype: many rounded terms
add up, and other libraries' softmax rounds as it likes."""


def cascade_exit(probabilities: Array, policy: CascadePolicy, *, logits: bool = False) -> CascadeResult:
    """The answer of a cascade, given the probabilities of every level.

    ``level = min {g : confidence_g > thresholds[g]}``, strictly, or ``G - 1`` if there is none;
    ``labels = argmax_c probabilities[level]``, the first of equals. Comparisons are those of the exact
    values, as in float64. A NaN confidence never accepts; a row whose *last* confidence is NaN and that no
    level before accepted is labelled -1. Any NaN in a row makes its confidence NaN.

    Args:
        probabilities: ``(G, ..., C)`` floating, of any framework: the softmax of each level. Entries further than
            1e-3 (1e-2 in float16, 2e-2 in bfloat16) from [0, 1], and rows whose sum is as far from 1, are refused
            where they can be seen; nearer ones are rounding, and count as the nearest of [0, 1]. With a policy's
            temperature ``T`` they count as ``p^(1/T) / sum p^(1/T)``, that is ``softmax(logits / T)``.
        policy: the policy, with ``G`` levels.
        logits: ``probabilities`` are logits.

    Returns:
        A :class:`CascadeResult` of shape ``(...)``: integer labels and levels (int64; JAX's default integer),
        confidences in float32 or wider. Nothing in it is differentiable.

    Raises:
        TypeError: no array, no floating dtype, or no policy.
        ValueError: another shape, or rows that are no probabilities, with the position of the first.

    Example:
        >>> import mrl, numpy as np
        >>> probabilities = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.3, 0.7]]])
        >>> result = mrl.cascade_exit(probabilities, mrl.CascadePolicy((0.8,), (8, 16)))
        >>> result.labels.tolist(), result.level.tolist()
        ([0, 1], [0, 1])

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1.
    """
    check_policy(policy)
    backend, given = settle({"probabilities": probabilities})
    probabilities = given["probabilities"]
    checks.check_flag("logits", logits)
    check_levels("probabilities", probabilities, len(policy))
    if not logits:
        values = backend.to_numpy(probabilities, blocking=False)
        if values is not None:
            for g, level in enumerate(values):
                check_probabilities(level, checks.dtype_name(probabilities), g)
    result: CascadeResult = backend.cascade_exit(probabilities, policy, logits=bool(logits))
    return result


def cascade_predict(z: Array, head: Head, policy: CascadePolicy, *, chunk_rows: int | None = None) -> CascadeResult:
    """The answer of a cascade, computing only the levels that each row needs.

    Computes ``cascade_exit(nested_logits(z, head, Nesting(policy.dims)), policy, logits=True)``, without the
    logits that no row waits for. A tied head adds one block of columns to the rows still undecided and
    recomputes nothing: its work is that of the accepted level's dimensions, ``2 C m`` FLOPs a row. A
    :class:`NestedHead` multiplies the whole prefix of every level visited. A row whose confidence is
    within rounding of a threshold may exit on either side of it.

    Undecided rows move together after each level, so that products and softmax see no other row. PyTorch,
    TensorFlow and NumPy do this with arrays of the size that is left. Under ``jax.jit`` and TensorFlow's
    ``jit_compile=True``, where shapes are fixed, chunks of fixed size are gathered and their number is decided as
    it runs: at most one chunk a level is padding. A ``tf.function`` that was traced without ``jit_compile`` cannot be
    called from one with it.

    Args:
        z: ``(..., D)`` floating embeddings, ``D`` at least the policy's largest dimension.
        head: a :class:`TiedHead`, or a :class:`NestedHead` of the policy's ``G`` levels; same framework.
        policy: the policy; under ``jax.jit`` a constant or a static argument.
        chunk_rows: rows of one chunk; ``None`` plans it from the sizes. The answer is the same.

    Returns:
        A :class:`CascadeResult` of shape ``(...)``, as from :func:`cascade_exit`.

    Raises:
        TypeError: arrays of two frameworks, no arrays, no floating dtype, or no policy.
        ValueError: shapes that do not fit each other or the policy.

    Example:
        >>> import mrl, numpy as np
        >>> head = mrl.TiedHead(np.array([[3.0, 0.0], [0.0, 2.0]]))
        >>> result = mrl.cascade_predict(np.array([[1.0, 0.0], [0.1, 2.0]]), head, mrl.CascadePolicy((0.9,), (1, 2)))
        >>> result.labels.tolist(), result.level.tolist()
        ([0, 1], [0, 1])

    Source: arXiv 2205.13147, section 4.2.1.
    """
    check_policy(policy)
    backend, z, head, arrays, _ = take(z, head, policy.nesting)
    if chunk_rows is not None:
        chunk_rows = checks.check_integer("chunk_rows", chunk_rows, at_least=1)
    shape = checks.check_embedding("z", z, policy.nesting.width)
    checks.check_head(head, arrays, policy.nesting, shape)
    result: CascadeResult = backend.cascade_predict(z, head, policy, chunk_rows=chunk_rows)
    return result


def check_levels(name: str, values: Array, levels: int, *, more: bool = False) -> tuple[int | None, ...]:
    """The shape of ``values``, ``(levels, ..., C)``, or ``more`` levels, with a class at least and a floating dtype."""
    checks.check_floating(name, values)
    shape = checks.shape_of(name, values)
    if len(shape) < 2 or not fits(shape[0], levels, more) or shape[-1] is None or shape[-1] < 1:
        raise ValueError(
            f"{name}: expected shape (G, ..., C) with G {'at least' if more else '='} {levels} levels and C at least "
            f"1, got {tuple(shape)}; stack one array per level of the policy"
        )
    return shape


def fits(count: int | None, levels: int, more: bool) -> bool:
    return count is not None and (count >= levels if more else count == levels)


def check_probabilities(level: Any, dtype: str, g: int) -> None:
    """Rows of probabilities; NaN is let through, and never accepts."""
    values = np.asarray(level)
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    near = TOLERANCE[dtype]
    with np.errstate(all="ignore"):
        bad = (values.min(-1) < -near) | (values.max(-1) > 1 + near) | (np.abs(values.sum(-1) - 1) > near)
        if not bad.any():
            return
        position = tuple(int(i) for i in np.argwhere(bad)[0])
        row = values[position]
        raise ValueError(
            f"probabilities: expected rows in [0, 1] that sum to 1, both within {near}, got level {g}, row "
            f"{position[0] if len(position) == 1 else position} with entries from {row.min():.6g} to {row.max():.6g} "
            f"and sum {row.sum():.6g}; pass logits=True for logits, or apply softmax first"
        )
