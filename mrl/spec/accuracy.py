"""How often the label is among the classes that a level finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


@np.errstate(all="ignore")
def nested_accuracy(
    logits: ArrayLike, labels: ArrayLike, *, topk: Sequence[int] = (1,), ignore_index: int | None = None
) -> Float:
    """The share of rows whose label is among the ``k`` largest logits, of every granularity and ``k``.

    A label ranks behind the classes with a larger logit and those before it with an equal one: of equals the lowest
    index comes first. A row with NaN is wrong; a label out of range makes the share NaN; of no rows in use it is 0.

    Args:
        logits: ``(G, ..., C)``.
        labels: ``(...)`` integers.
        topk: the numbers ``k`` of classes.
        ignore_index: the label of rows that take no part.

    Returns:
        ``(G, len(topk))`` in float64.

    Example:
        >>> import mrl
        >>> mrl.spec.nested_accuracy([[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]]], [0, 1], topk=(1, 2, 3)).tolist()
        [[0.5, 0.5, 1.0]]

    Source: the top-1 accuracy of arXiv 2205.13147, section 4.2, and its usual generalisation.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    classes = logits.shape[-1]
    used = np.ones(labels.shape, bool) if ignore_index is None else np.asarray(labels != ignore_index)
    outside = used & ((labels < 0) | (labels >= classes))
    safe = np.where(used & ~outside, labels, 0)
    shares = []
    for level in logits:
        own = np.take_along_axis(level, safe[..., None], axis=-1)
        ahead = (level > own) | ((level == own) & (np.arange(classes) < safe[..., None]))
        rank = np.where(np.isnan(level).any(axis=-1), classes, ahead.sum(axis=-1))
        right = [np.where(outside, np.nan, used & (rank < min(k, classes))).sum() for k in topk]
        shares.append([hits / max(1, int(used.sum())) for hits in right])
    return np.asarray(shares, np.float64)
