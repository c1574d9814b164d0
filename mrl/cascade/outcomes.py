"""What a cascade's levels say of labelled examples: how sure each is, and whether it is right. All that a fit needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks, spec
from ..dispatch import backend_of, settle
from ..heads import Array
from .execute import TOLERANCE, check_levels, check_probabilities, fits
from .policy import check_confidence, check_temperatures

Float = NDArray[np.float64]
TOP = 5
CHUNK_BYTES = 32 << 20  # a level in float64 is worked on by parts: it may be larger than all the rest


ROUNDING, TERMS = 2.0**-18, 512
"""How far a confidence found in float32 may be from the one measured here: 64 roundings of a number near 1.

Logits of 60 that are divided by a temperature come to 55. The sum of the exponentials rounds once per class, in eight
lanes or more, so that past ``TERMS`` classes the distance grows with their number.
"""


class Outcomes(NamedTuple):
    """Of every level and example: ``confidence`` (G, N) in float64 and ``correct`` (G, N).

    ``in_top`` (G, N) says whether the label is among the ``TOP`` likeliest classes, where that was asked for and there
    are more classes.
    """

    confidence: Float
    correct: NDArray[np.bool_]
    classes: int | None = None
    in_top: NDArray[np.bool_] | None = None

    @property
    def rounding(self) -> float:
        """How near to a threshold a confidence may end up on either side of it when the cascade runs."""
        return ROUNDING * max(1.0, (self.classes or 1) / TERMS)

    def rows(self, places: NDArray[np.int64]) -> Outcomes:
        """Of some examples alone."""
        in_top = None if self.in_top is None else self.in_top[:, places]
        return self._replace(confidence=self.confidence[:, places], correct=self.correct[:, places], in_top=in_top)

    def first(self, levels: int) -> Outcomes:
        """Of the first levels alone."""
        in_top = None if self.in_top is None else self.in_top[:levels]
        return self._replace(confidence=self.confidence[:levels], correct=self.correct[:levels], in_top=in_top)


def measure(
    probabilities: Any,
    labels: Array | None,
    levels: int,
    *,
    confidence: str,
    temperatures: Sequence[float] | None,
    logits: bool,
    more: bool = False,
    top: bool = False,
) -> Outcomes:
    """The outcomes of ``probabilities`` ``(levels, ..., C)``, or of a pair ``(confidence, correct)``.

    With ``more`` of levels that there are it is the first of them, and with ``top`` there is ``in_top``. An answer of a
    level whose confidence is NaN counts as wrong, as a cascade would label it -1.
    """
    check_confidence(confidence)
    if isinstance(probabilities, (tuple, list)):
        return _given(probabilities, labels, levels, temperatures, logits, more)
    values, y = host_examples("probabilities", probabilities, labels, levels, more=more)
    scales = check_temperatures(temperatures, levels)
    checks.check_flag("logits", logits)
    found, right, in_top = np.empty((levels, len(y))), *np.empty((2, levels, len(y)), bool)
    top = top and values.shape[-1] > TOP
    chunk = max(1, CHUNK_BYTES // (8 * values.shape[-1]))
    for g in range(levels):
        if not logits:
            check_probabilities(values[g], checks.dtype_name(probabilities), g)
        for i in range(0, len(y), chunk):
            rows = slice(i, i + chunk)
            part = values[g, rows].astype(np.float64)
            found[g, rows] = spec.confidence(part, confidence, scales[g], logits=logits)
            right[g, rows] = part.argmax(-1) == y[rows]
            if top:
                in_top[g, rows] = places(part, y[rows]) < TOP
    known = ~np.isnan(found)
    return Outcomes(found, right & known, int(values.shape[-1]), in_top & known if top else None)


def places(values: Float, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the label: the larger ones, and of equals those with a smaller index."""
    own = np.take_along_axis(values, labels[:, None], -1)
    before = (values > own) | ((values == own) & (np.arange(values.shape[-1]) < labels[:, None]))
    return np.asarray(before.sum(-1))


def host_examples(
    name: str, values: Array, labels: Array | None, levels: int, *, more: bool = False
) -> tuple[Any, NDArray[np.int64]]:
    """``values`` as a NumPy array ``(levels, N, C)`` and the labels ``(N,)``, after checking both."""
    if labels is None:
        raise TypeError(f"labels: expected one class index per example, got None; only a pair {PAIR} goes without")
    values = settle({name: values})[1][name]
    shape = check_levels(name, values, levels, more=more)
    host, y = to_host(name, values)[:levels], _host_labels(labels)
    lead, classes = host.shape[1:-1], host.shape[-1]
    if y.shape != lead:
        raise ValueError(
            f"labels: expected shape {lead}, one class index per example of {name} {tuple(shape)}, got {y.shape}; "
            "give one label per example"
        )
    checks.check_labels(y, lead, classes, None, backend_of({"labels": y}), ignorable=False)
    if y.size == 0:
        raise ValueError(f"labels: expected at least one example, got shape {lead}; fit and report on data")
    return host.reshape(levels, math.prod(lead), classes), y.astype(np.int64).reshape(-1)


def _host_labels(labels: Any) -> NDArray[Any]:
    """Labels of any framework, whichever the values are of: both are only read. A list of integers does too."""
    if not isinstance(labels, (list, tuple)):
        return np.asarray(to_host("labels", labels))
    try:
        host = np.asarray(labels)
    except ValueError as error:
        raise ValueError(
            f"labels: expected one class index per example, got a ragged list ({error}); align it"
        ) from error
    return host if host.size else host.astype(np.int64)


PAIR = "(confidence, correct)"


def to_host(name: str, array: Array) -> Any:
    backend, given = settle({name: array})
    try:
        return backend.to_numpy(given[name], blocking=True)
    except TypeError as error:
        if "traced" not in str(error) and "symbolic" not in str(error):
            raise
        raise TypeError(
            f"{name}: expected an array with values, got a traced one; call this outside of jit, "
            "torch.compile and tf.function, and hand the policy in"
        ) from error


def _given(
    pair: Sequence[Any], labels: Any, levels: int, temperatures: Sequence[float] | None, logits: bool, more: bool
) -> Outcomes:
    if len(pair) != 2:
        raise ValueError(f"probabilities: expected an array or a pair {PAIR}, got {len(pair)} items; stack the levels")
    for name, value in (("labels", labels), ("temperatures", temperatures), ("logits", logits or None)):
        if value is not None:
            raise ValueError(
                f"{name}: expected nothing beside a pair {PAIR}, got {value!r}; "
                "confidences are final, pass probabilities to have them computed"
            )
    confidence, correct = (
        settle({name: value})[1][name] for name, value in zip(("confidence", "correct"), pair, strict=True)
    )
    checks.check_floating("confidence", confidence)
    if checks.dtype_name(correct) != "bool":
        raise TypeError(f"correct: expected bools, got {checks.dtype_name(correct)}; write answers == labels")
    found, right = (to_host(name, value) for name, value in (("confidence", confidence), ("correct", correct)))
    for name, value in (("confidence", found), ("correct", right)):
        if value.ndim < 2 or not fits(value.shape[0], levels, more) or value.shape != found.shape:
            raise ValueError(
                f"{name}: expected shape (G, N) with G {'at least' if more else '='} {levels} levels, the same for "
                f"both of {PAIR}, got {value.shape}; stack one row per level"
            )
    examples = math.prod(found.shape[1:])
    found, right = (value[:levels].reshape(levels, examples) for value in (found.astype(np.float64), right))
    tolerance = TOLERANCE[checks.dtype_name(confidence)]
    outside = (found < -tolerance) | (found > 1 + tolerance)  # false for NaN, which never accepts
    if outside.any():
        g, i = (int(k) for k in np.argwhere(outside)[0])
        raise ValueError(
            f"confidence: expected numbers in [0, 1] within {tolerance}, got {found[g, i]:.6g} at level {g}, example "
            f"{i}; give the largest probability, say, and not the largest logit"
        )
    if found.shape[1] == 0:
        raise ValueError(f"confidence: expected at least one example, got shape {found.shape}; fit and report on data")
    return Outcomes(np.clip(found, 0, 1), right & ~np.isnan(found))


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
