"""What a cascade's levels say of labelled examples: how sure each is, and whether it is right. All that a fit needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks, spec
from ..dispatch import backend_of
from ..heads import Array
from .execute import TOLERANCE, check_levels, check_probabilities
from .policy import check_confidence, check_temperatures

Float = NDArray[np.float64]
CHUNK_BYTES = 32 << 20  # a level in float64 is worked on by parts: it may be larger than all the rest


ROUNDING, TERMS = 2.0**-18, 512
"""How far a confidence found in float32 may be from the one measured here: 64 roundings of a number near 1.

Logits of 60 that are divided by a temperature come to 55. The sum of the exponentials rounds once per class, in eight
lanes or more, so that past ``TERMS`` classes the distance grows with their number.
"""


class Outcomes(NamedTuple):
    """Of every level and example: ``confidence`` (G, N) in float64 and ``correct`` (G, N)."""

    confidence: Float
    correct: NDArray[np.bool_]
    classes: int | None = None

    @property
    def rounding(self) -> float:
        """How near to a threshold a confidence may end up on either side of it when the cascade runs."""
        return ROUNDING * max(1.0, (self.classes or 1) / TERMS)


def measure(
    probabilities: Any,
    labels: Array | None,
    levels: int,
    *,
    confidence: str,
    temperatures: Sequence[float] | None,
    logits: bool,
) -> Outcomes:
    """The outcomes of ``probabilities`` ``(levels, ..., C)``, or of a pair ``(confidence, correct)``.

    An answer of a level whose confidence is NaN counts as wrong, as a cascade would label it -1.
    """
    check_confidence(confidence)
    if isinstance(probabilities, (tuple, list)):
        return _given(probabilities, labels, levels, temperatures, logits)
    values, y = host_examples("probabilities", probabilities, labels, levels)
    scales = check_temperatures(temperatures, levels)
    checks.check_flag("logits", logits)
    found, right = np.empty((levels, len(y))), np.empty((levels, len(y)), bool)
    chunk = max(1, CHUNK_BYTES // (8 * values.shape[-1]))
    for g in range(levels):
        if not logits:
            check_probabilities(values[g], checks.dtype_name(probabilities), g)
        for i in range(0, len(y), chunk):
            rows = slice(i, i + chunk)
            part = values[g, rows].astype(np.float64)
            found[g, rows] = spec.confidence(part, confidence, scales[g], logits=logits)
            right[g, rows] = part.argmax(-1) == y[rows]
    return Outcomes(found, right & ~np.isnan(found), int(values.shape[-1]))


def host_examples(name: str, values: Array, labels: Array | None, levels: int) -> tuple[Any, NDArray[np.int64]]:
    """``values`` as a NumPy array ``(levels, N, C)`` and the labels ``(N,)``, after checking both."""
    if labels is None:
        raise TypeError(f"labels: expected one class index per example, got None; only a pair {PAIR} goes without")
    backend = backend_of({name: values, "labels": labels}, one_device=False)
    shape = check_levels(name, values, levels)
    host = to_host(name, values)
    lead, classes = host.shape[1:-1], host.shape[-1]
    if checks.shape_of("labels", labels) != tuple(lead):
        raise ValueError(
            f"labels: expected shape {tuple(lead)}, one class index per example of {name} {tuple(shape)}, got "
            f"{tuple(labels.shape)}; give one label per example"
        )
    checks.check_labels(labels, lead, classes, None, backend, ignorable=False)
    y = to_host("labels", labels).astype(np.int64).reshape(-1)
    if y.size and (y.min() < 0 or y.max() >= classes):  # of an accelerator, which the check above does not wait for
        raise ValueError(f"labels: expected values in [0, {classes}), got {y.min()} to {y.max()}; correct the labels")
    if y.size == 0:
        raise ValueError(f"labels: expected at least one example, got shape {tuple(lead)}; fit and report on data")
    return host.reshape(levels, math.prod(lead), classes), y


PAIR = "(confidence, correct)"


def to_host(name: str, array: Array) -> Any:
    try:
        return backend_of({name: array}).to_numpy(array, blocking=True)
    except TypeError as error:
        if "traced" not in str(error) and "symbolic" not in str(error):
            raise
        raise TypeError(
            f"{name}: expected an array with values, got a traced one; call this outside of jit, "
            "torch.compile and tf.function, and hand the policy in"
        ) from error


def _given(
    pair: Sequence[Any], labels: Any, levels: int, temperatures: Sequence[float] | None, logits: bool
) -> Outcomes:
    if len(pair) != 2:
        raise ValueError(f"probabilities: expected an array or a pair {PAIR}, got {len(pair)} items; stack the levels")
    for name, value in (("labels", labels), ("temperatures", temperatures), ("logits", logits or None)):
        if value is not None:
            raise ValueError(
                f"{name}: expected nothing beside a pair {PAIR}, got {value!r}; "
                "confidences are final, pass probabilities to have them computed"
            )
    confidence, correct = pair
    backend_of({"confidence": confidence, "correct": correct}, one_device=False)
    checks.check_floating("confidence", confidence)
    if checks.dtype_name(correct) != "bool":
        raise TypeError(f"correct: expected bools, got {checks.dtype_name(correct)}; write answers == labels")
    found, right = (to_host(name, value) for name, value in (("confidence", confidence), ("correct", correct)))
    for name, value in (("confidence", found), ("correct", right)):
        if value.ndim < 2 or value.shape[0] != levels or value.shape != found.shape:
            raise ValueError(
                f"{name}: expected shape (G, N) with G = {levels} levels, the same for both of {PAIR}, got "
                f"{value.shape}; stack one row per level"
            )
    found, right = found.astype(np.float64).reshape(levels, -1), right.reshape(levels, -1)
    tolerance = TOLERANCE[checks.dtype_name(confidence)]
    outside = (found < -tolerance) | (found > 1 + tolerance)  # false for NaN, which never accepts
    if outside.any():
        g, i = (int(k) for k in np.argwhere(outside)[0])
        raise ValueError(
            f"confidence: expected numbers in [0, 1], got {found[g, i]:.6g} at level {g}, example {i}; "
            "give the largest probability, say, and not the largest logit"
        )
    if found.shape[1] == 0:
        raise ValueError(f"confidence: expected at least one example, got shape {found.shape}; fit and report on data")
    return Outcomes(found, right & ~np.isnan(found))


def accepted_level(confidence: Float, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """The level that answers each example: the first with ``confidence > threshold``, or the last."""
    last = len(confidence) - 1
    level = np.full(confidence.shape[1], last)
    for g in reversed(range(last)):
        if thresholds[g] < 1:
            level[confidence[g] > thresholds[g]] = g
    return level


def right_at(correct: NDArray[np.bool_], level: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the level that answers is right, ``(N,)``."""
    return np.asarray(np.take_along_axis(correct, level[None], 0)[0])
