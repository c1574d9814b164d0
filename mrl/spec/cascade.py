"""Adaptive classification: confidences, and the walk through the levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cascade.policy import CascadePolicy, CascadeResult
from ..heads import Head
from .logits import nested_logits

Float = NDArray[np.float64]


def confidence(values: ArrayLike, kind: str, temperature: float = 1.0, *, logits: bool = False) -> Float:
    """The confidence of ``p = softmax(logits / temperature)``, or of probabilities ``p``, over the last axis.

    ``"probability"``: ``max p``; ``"margin"``: the largest less the second largest (0 if there is none);
    ``"entropy"``: ``1 + sum p log p / log C`` (1 if ``C = 1``). Probabilities with a temperature are
    ``p^(1/T) / sum p^(1/T)``, which is ``softmax(logits / T)``. What rounding brought out of [0, 1] counts as the
    end that it passed. NaN where any entry is NaN.

    Args:
        values: ``(..., C)`` probabilities, or logits.
        kind: ``"probability"``, ``"margin"`` or ``"entropy"``.
        temperature: ``T``, positive.
        logits: whether ``values`` are logits.

    Returns:
        ``(...)`` in float64.

    Example:
        >>> import mrl
        >>> [round(float(mrl.spec.confidence([0.7, 0.2, 0.1], kind)), 3) for kind in ("margin", "entropy")]
        [0.5, 0.27]

    Source: arXiv 2205.13147, section 4.2.1 (the probability); Guo et al., arXiv 1706.04599 (the temperature).
    """
    p = np.asarray(values, np.float64)
    with np.errstate(all="ignore"):
        p = p if logits else np.clip(p, 0, 1)
        if logits or temperature != 1:
            scores = p if logits else np.log(p)
            scores = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
            p = scores / scores.sum(axis=-1, keepdims=True)
        classes = p.shape[-1]
        if kind == "probability":
            result = p.max(axis=-1)
        elif kind == "margin":
            result = p.max(axis=-1) - (np.partition(p, -2)[..., -2] if classes > 1 else 0.0)
        elif classes == 1:
            result = np.ones(p.shape[:-1])
        else:
            result = 1 + np.where(p > 0, p * np.log(p), 0.0).sum(axis=-1) / np.log(classes)
    return np.asarray(np.where(np.isnan(p).any(axis=-1), np.nan, result))


def cascade_exit(values: ArrayLike, policy: CascadePolicy, *, logits: bool = False) -> CascadeResult:
    """The first level whose confidence is above its threshold, strictly, or else the last.

    ``values`` are ``(G, ..., C)`` probabilities or logits. A threshold of 1 or a NaN confidence never accepts.
    The label is the largest entry, the first of equals; -1 where the last level's confidence is NaN.

    Args:
        values: ``(G, ..., C)``.
        policy: the thresholds, and how confidences are measured.
        logits: whether ``values`` are logits.

    Returns:
        A :class:`mrl.CascadeResult` of shape ``(...)``: int64 labels and levels, float64 confidences.

    Example:
        >>> import mrl
        >>> levels = [[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.3, 0.7]]]
        >>> mrl.spec.cascade_exit(levels, mrl.CascadePolicy((0.8,), (8, 16))).level.tolist()
        [0, 1]

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1.
    """
    values = np.asarray(values)
    last = len(policy.dims) - 1
    level = np.full(values.shape[1:-1], last)
    labels = np.full(values.shape[1:-1], -1)
    found = np.zeros(values.shape[1:-1])
    undecided = np.ones(values.shape[1:-1], bool)
    for g in range(last + 1):
        c = confidence(values[g], policy.confidence, policy.temperatures[g], logits=logits)
        if g < last:
            exits = undecided & (c > policy.thresholds[g]) & (policy.thresholds[g] < 1)
        else:
            exits = undecided
        level[exits] = g
        labels[exits] = np.where(np.isnan(c), -1, np.argmax(values[g], axis=-1))[exits]
        found[exits] = c[exits]
        undecided = undecided & ~exits
    return CascadeResult(labels, level, found)


def cascade_predict(z: ArrayLike, head: Head, policy: CascadePolicy) -> CascadeResult:
    """:func:`cascade_exit` on the logits of every level, all of which it computes.

    Args:
        z: ``(..., D)`` embeddings.
        head: its arrays as NumPy.
        policy: with the granularities of the head.

    Returns:
        A :class:`mrl.CascadeResult` of shape ``(...)``.

    Example:
        >>> import mrl
        >>> head = mrl.TiedHead([[2.0, 0.0], [-2.0, 3.0]])
        >>> mrl.spec.cascade_predict([[1.0, 0.0], [0.0, 1.0]], head, mrl.CascadePolicy((0.9,), (1, 2))).level.tolist()
        [0, 1]

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1.
    """
    return cascade_exit(nested_logits(z, head, policy.nesting), policy, logits=True)
