"""The nested cross-entropy with a mistake in one of its steps, as a specification of what that mistake computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...heads import NestedHead
from ...nesting import Nesting
from ..case import Diagnosis
from ..problems import Layout, Problem, head_from, leaf_shapes, round_to


class View:
    """What the steps see of a problem: its arrays, real or complex, under the symbols of the paper."""

    def __init__(self, problem: Problem, arrays: list[Any]) -> None:
        layout = problem.layout
        self.z, self.layout, self.m = arrays[0], layout, layout.nesting.dims
        self.w = np.array(layout.nesting.weights)
        self.head = head_from(layout, arrays[1:])
        self.y = problem.labels
        self.used = np.ones(self.y.shape, bool) if layout.ignore_index is None else self.y != layout.ignore_index

    def weight(self, g: int) -> Any:
        """Of level ``g``, with all columns that there are."""
        return self.head.weights[g] if isinstance(self.head, NestedHead) else self.head.weight

    def bias(self, g: int) -> Any:
        if isinstance(self.head, NestedHead):
            return 0.0 if self.head.biases is None else self.head.biases[g]
        return 0.0 if self.head.bias is None else self.head.bias

    def columns(self, g: int, columns: slice) -> Any:
        """The product of some columns of the embedding and the weight of a level."""
        weight = self.weight(g)
        start, stop, _ = columns.indices(min(self.z.shape[-1], weight.shape[1]))
        return self.z[..., start:stop] @ weight[:, start:stop].T


def logits(v: View, g: int) -> Any:
    return v.columns(g, slice(v.m[g])) + v.bias(g)


def target(v: View) -> Any:
    s, classes = v.layout.label_smoothing, v.layout.classes
    return (1 - s) * onehot(v) + s / classes


def losses(v: View, s: Any, t: Any) -> Any:
    return np.sum(t * (lse(s) - s), -1)


def rows(v: View, loss: Any) -> Any:
    loss = np.where(v.used, loss, 0.0)
    if v.layout.reduction == "none":
        return loss
    return np.sum(loss) / (max(1, v.used.sum()) if v.layout.reduction == "mean" else 1)


def levels(v: View, per_level: list[Any]) -> Any:
    return sum(w * level for w, level in zip(v.w, per_level, strict=True))


@dataclass(frozen=True)
class Steps:
    """The loss, from logits to the sum over levels; a mistake takes one step in another way."""

    logits: Callable[[View, int], Any] = logits
    target: Callable[[View], Any] = target
    losses: Callable[[View, Any, Any], Any] = losses
    rows: Callable[[View, Any], Any] = rows
    levels: Callable[[View, list[Any]], Any] = levels

    def __call__(self, problem: Problem, arrays: list[Any]) -> Any:
        v = View(problem, arrays)
        t = self.target(v)
        return self.levels(v, [self.rows(v, self.losses(v, self.logits(v, g), t)) for g in range(len(v.m))])


def onehot(v: View, shift: int = 0) -> Any:
    return ((v.y + shift) % v.layout.classes)[..., None] == np.arange(v.layout.classes)


def lse(s: Any) -> Any:
    shift = np.max(np.real(s), -1, keepdims=True)
    return np.log(np.sum(np.exp(s - shift), -1, keepdims=True)) + shift


def softmax(s: Any) -> Any:
    return np.exp(s - lse(s))


def unit(x: Any) -> Any:
    return x / np.sqrt(np.sum(x * x, -1, keepdims=True))


def smoothed_over_others(v: View) -> Any:
    s, classes = v.layout.label_smoothing, v.layout.classes
    return np.where(onehot(v), 1 - s, s / max(1, classes - 1))


def binary(v: View, s: Any, t: Any) -> Any:
    return np.sum(np.log(1 + np.exp(s)) - t * s, -1)


def without_class(v: View, s: Any, t: Any, kept: slice) -> Any:
    return (lse(s[..., kept]) - np.sum(t * s, -1, keepdims=True))[..., 0]


def all_rows(v: View, loss: Any) -> Any:
    if v.layout.reduction == "none":
        return loss
    return np.sum(loss) / (max(1, loss.size) if v.layout.reduction == "mean" else 1)


def counted(v: View, loss: Any) -> Any:
    loss = np.where(v.used, loss, 0.0)
    return np.sum(loss) / max(1, loss.size) if v.layout.reduction == "mean" else rows(v, loss)


def other_reduction(v: View, loss: Any) -> Any:
    factor = {"mean": max(1, v.used.sum()), "sum": 1 / max(1, v.used.sum()), "none": 1}[v.layout.reduction]
    return factor * rows(v, loss)


def reweighted(change: Callable[[Any], Any]) -> Steps:
    return Steps(levels=lambda v, per_level: sum(w * x for w, x in zip(change(v.w), per_level, strict=True)))


def sliced(columns: Callable[[View, int], slice]) -> Steps:
    return Steps(logits=lambda v, g: v.columns(g, columns(v, g)) + v.bias(g))


def kept_gradients(keep: Callable[[View, int], bool]) -> Steps:
    """Losses of the levels that are not kept are constants."""

    def detached(v: View, per_level: list[Any]) -> Any:
        return levels(v, [x if keep(v, g) else np.real(x) for g, x in enumerate(per_level)])

    return Steps(levels=detached)


def _of_constants(problem: Problem, arrays: list[Any], *, z: bool) -> Any:
    constant = [np.real(x) if (i == 0) == z else x for i, x in enumerate(arrays)]
    return Steps()(problem, constant)


LEVELS = {
    "the mean over levels for their sum": reweighted(lambda w: w / len(w)),
    "the levels divided by the sum of their weights": reweighted(lambda w: w / w.sum()),
    "the weights of the nesting ignored": reweighted(np.ones_like),
    "the weights of the nesting applied twice": reweighted(np.square),
    "the square roots of the nesting's weights": reweighted(np.sqrt),
    "the weights of the nesting in reverse order": reweighted(lambda w: w[::-1]),
    "the last level only": reweighted(lambda w: np.where(np.arange(len(w)) == len(w) - 1, w, 0.0)),
    "the first level left out": reweighted(lambda w: np.where(np.arange(len(w)) == 0, 0.0, w)),
    "the last level left out": reweighted(lambda w: np.where(np.arange(len(w)) == len(w) - 1, 0.0, w)),
    "the last level counted twice": reweighted(lambda w: np.where(np.arange(len(w)) == len(w) - 1, w + 1, w)),
    "no gradient from the narrower levels": kept_gradients(lambda v, g: g == len(v.m) - 1),
    "no gradient from the wider levels": kept_gradients(lambda v, g: g == 0),
    "no gradient at all": kept_gradients(lambda v, g: False),
}
"""Mistakes in how levels are put together, whatever a level's loss is."""

ROWS = {
    "the sum over rows for their mean, or their mean for their sum": Steps(rows=other_reduction),
    "ignored rows counted in the mean": Steps(rows=counted),
    "ignored rows not ignored": Steps(rows=all_rows),
}

MISTAKES: dict[str, Callable[[Problem, list[Any]], Any]] = {
    **LEVELS,
    **ROWS,
    "the mean over classes too": Steps(losses=lambda v, s, t: losses(v, s, t) / s.shape[-1]),
    "labels off by one": Steps(target=lambda v: onehot(v, 1) * (1 - v.layout.label_smoothing) + _even(v)),
    "labels off by one the other way": Steps(
        target=lambda v: onehot(v, -1) * (1 - v.layout.label_smoothing) + _even(v)
    ),
    "label smoothing over the other classes alone": Steps(target=smoothed_over_others),
    "label smoothing ignored": Steps(target=onehot),
    "logarithms to base 2": Steps(losses=lambda v, s, t: losses(v, s, t) / np.log(2)),
    "softmax taken twice": Steps(losses=lambda v, s, t: losses(v, softmax(s), t)),
    "the probability for its logarithm": Steps(losses=lambda v, s, t: -np.sum(t * softmax(s), -1)),
    "the sign of the loss": Steps(losses=lambda v, s, t: -losses(v, s, t)),
    "a binary cross-entropy for every class": Steps(losses=binary),
    "the last class left out of the softmax": Steps(losses=partial(without_class, kept=slice(None, -1))),
    "the first class left out of the softmax": Steps(losses=partial(without_class, kept=slice(1, None))),
    "the bias added once a block": Steps(logits=lambda v, g: logits(v, g) + g * v.bias(g)),
    "the bias left out": Steps(logits=lambda v, g: logits(v, g) - v.bias(g)),
    "the bias added twice": Steps(logits=lambda v, g: logits(v, g) + v.bias(g)),
    "slices that end one late": sliced(lambda v, g: slice(v.m[g] + 1)),
    "slices that end one early": sliced(lambda v, g: slice(v.m[g] - 1)),
    "slices that start one late": sliced(lambda v, g: slice(1, v.m[g])),
    "suffixes for prefixes": Steps(logits=lambda v, g: v.z[..., -v.m[g] :] @ v.weight(g)[:, -v.m[g] :].T + v.bias(g)),
    "blocks for prefixes": sliced(lambda v, g: slice(v.m[g - 1] if g else 0, v.m[g])),
    "the first slice for all levels": sliced(lambda v, g: slice(v.m[0])),
    "the whole embedding for all levels": sliced(lambda v, g: slice(None)),
    "prefixes normalised": Steps(logits=lambda v, g: _normalised(v, g, unit(v.z[..., : v.m[g]]))),
    "embeddings normalised": Steps(logits=lambda v, g: _normalised(v, g, unit(v.z)[..., : v.m[g]])),
    "logits divided by the square root of the dimensions": Steps(logits=lambda v, g: logits(v, g) / np.sqrt(v.m[g])),
    "no gradient for the embeddings": partial(_of_constants, z=True),
    "no gradient for the head": partial(_of_constants, z=False),
}
"""What is computed instead, by the name that a message gives it."""


def _even(v: View) -> Any:
    return v.layout.label_smoothing / v.layout.classes


def _normalised(v: View, g: int, prefix: Any) -> Any:
    return prefix @ v.weight(g)[:, : v.m[g]].T + v.bias(g)


def _cosine(
    problem: Problem,
    arrays: list[Any],
    *,
    of: Callable[[Any, int, int], Any],
    distance: Callable[[Any], Any],
    steps: Steps,
) -> Any:
    v, targets = View(replace(problem, layout=replace(problem.layout, tied=True)), [*arrays, None]), problem.targets
    similar = [np.sum(of(v.z, m, 0) * of(targets, m, 1), -1) for m in v.m]
    return steps.levels(v, [steps.rows(v, distance(x)) for x in similar])


def _prefix(x: Any, m: int, side: int) -> Any:
    return unit(x[..., :m])


COSINE = partial(_cosine, of=_prefix, distance=lambda x: 1 - x, steps=Steps())

COSINE_MISTAKES: dict[str, Callable[[Problem, list[Any]], Any]] = {
    **{name: partial(COSINE, steps=steps) for name, steps in LEVELS.items()},
    "the sum over rows for their mean": partial(COSINE, steps=Steps(rows=other_reduction)),
    "normalised before slicing": partial(COSINE, of=lambda x, m, side: unit(x)[..., :m]),
    "prefixes not normalised": partial(COSINE, of=lambda x, m, side: x[..., :m]),
    "the embeddings not normalised": partial(COSINE, of=lambda x, m, side: unit(x[..., :m]) if side else x[..., :m]),
    "the targets not normalised": partial(COSINE, of=lambda x, m, side: x[..., :m] if side else unit(x[..., :m])),
    "whole targets normalised before slicing": partial(
        COSINE, of=lambda x, m, side: unit(x)[..., :m] if side else unit(x[..., :m])
    ),
    "the similarity for the distance": partial(COSINE, distance=lambda x: x),
    "minus the similarity for one minus it": partial(COSINE, distance=lambda x: -x),
    "the squared distance of unit vectors": partial(COSINE, distance=lambda x: 2 - 2 * x),
    "slices that end one late": partial(COSINE, of=lambda x, m, side: unit(x[..., : m + 1])),
    "slices that start one late": partial(COSINE, of=lambda x, m, side: unit(x[..., 1 : m + 1])),
}


def telling_problems(
    dtype: str, *, tied: bool | None, bias: bool | None, options: Sequence[str], nesting: Nesting | None = None
) -> list[Problem]:
    """Problems in general position, two of every layout, that tell mistakes apart: few layouts, no special numbers."""
    first = Nesting((2, 3, 5), (0.5, 3.0, 1.25)) if nesting is None else nesting
    second = Nesting((1, 4), (2.0, 0.75)) if nesting is None else nesting
    plain = [
        Layout(first, (4,), first.width + 2, 5, tied is not False, bias is not False),
        Layout(second, (3,), second.width + 1, 3, bool(tied), bool(bias)),
    ]
    given: dict[str, Any] = {"label_smoothing": 0.2, "ignore_index": 1}
    asked = {name: value for name, value in given.items() if name in options}
    reductions = ("mean", "sum") if "reduction" in options else ("mean",)
    chosen = [
        replace(plain[0], reduction=reduction, **asked) for reduction in reductions if asked or reduction == "sum"
    ]
    return [_telling(layout, dtype, seed) for layout in [*plain, *chosen] for seed in (0, 1)]


def _telling(layout: Layout, dtype: str, seed: int) -> Problem:
    rng = np.random.default_rng(seed)

    def numbers(size: tuple[int, ...]) -> Any:
        return round_to(rng.normal(size=size), dtype)

    labels = (np.arange(layout.rows) * 2 + 1 + seed) % layout.classes
    z, targets = numbers((*layout.lead, layout.features)), numbers((*layout.lead, layout.features))
    head = head_from(layout, [numbers(size) for size in leaf_shapes(layout)])
    return Problem(layout, dtype, z, head, labels, np.array(1.25), targets)


def cross_entropy_diagnosis(*, nesting: Nesting | None = None, **kinds: Any) -> Diagnosis:
    """Of losses with a head."""
    return Diagnosis(MISTAKES, partial(telling_problems, nesting=nesting, **kinds))


def cosine_diagnosis(*, nesting: Nesting | None = None) -> Diagnosis:
    """Of losses without one."""
    return Diagnosis(COSINE_MISTAKES, partial(telling_problems, tied=True, bias=False, options=(), nesting=nesting))
