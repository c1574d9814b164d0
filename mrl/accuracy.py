"""The accuracy of every granularity."""

from __future__ import annotations

from collections.abc import Sequence

from . import checks
from .dispatch import settle
from .heads import Array
from .nesting import is_sequence


def nested_accuracy(
    logits: Array, labels: Array, topk: Sequence[int] = (1,), *, ignore_index: int | None = None
) -> Array:
    """The share of examples whose label is among the ``k`` largest logits, of every granularity and ``k``.

    ``accuracy[g, j] = mean_i [rank_g(y_i) < topk[j]]`` with ``y = labels`` and ``rank_g(y)`` the number of classes with
    a larger logit than ``y`` at level ``g``, or with an equal one and a lower index: of equals the lowest comes first.

    Args:
        logits: ``(G, ..., C)`` floating, as :func:`nested_logits` gives them; probabilities do as well.
        labels: ``(...)`` integer class indices in ``[0, C)``, of the same framework.
        topk: the numbers ``k`` of classes, each at least 1; past ``C`` every label is among them.
        ignore_index: examples with this label are not counted.

    Returns:
        ``(G, len(topk))`` in float32 or wider, on the device of ``logits``; without gradient. An example with a NaN
        among its logits is wrong; of no examples the share is 0.

    Raises:
        TypeError: arrays of two frameworks, no arrays, or an argument of a wrong kind.
        ValueError: shapes that do not fit, a ``k`` below 1, or a label out of range; where that cannot be seen without
            waiting (traced code, accelerators) the share is NaN.

    Example:
        >>> import mrl, numpy as np
        >>> logits = np.array([[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]]])
        >>> mrl.nested_accuracy(logits, np.array([0, 1]), topk=(1, 2, 3)).tolist()
        [[0.5, 0.5, 1.0]]

    Source: the top-1 accuracy of arXiv 2205.13147, section 4.2, and its usual generalisation.
    """
    backend, given = settle({"logits": logits, "labels": labels})
    logits, labels = given["logits"], given["labels"]
    checks.check_floating("logits", logits)
    shape = checks.shape_of("logits", logits)
    if len(shape) < 2 or not shape[0] or not shape[-1]:
        raise ValueError(
            f"logits: expected a known shape (G, ..., C) of at least one level and class, got {tuple(shape)}; "
            "give those of mrl.nested_logits"
        )
    if not is_sequence(topk) or not tuple(topk):
        raise TypeError(f"topk: expected a sequence of integers, got {topk!r}; write (1, 5)")
    counts = tuple(checks.check_integer(f"topk[{j}]", k, at_least=1) for j, k in enumerate(topk))
    if ignore_index is not None:
        ignore_index = checks.check_integer("ignore_index", ignore_index)
    ignore_index = checks.check_labels(labels, shape[1:-1], shape[-1], ignore_index, backend)
    return backend.nested_accuracy(logits, labels, topk=counts, ignore_index=ignore_index)
