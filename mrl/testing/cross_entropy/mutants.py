"""Wrong implementations, made from a right one: each must break a bound, or the proof proves nothing.

A mutant calls the implementation under proof with a slightly different problem, or changes its result, as a
mistake in its code would; the answer is held against the specification of the problem as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...heads import NestedHead, TiedHead, head_leaves
from ...nesting import Nesting
from ..case import Mutant
from ..drivers import Result
from ..problems import Problem, round_to


def _roll(problem: Problem) -> Problem | None:
    return replace(problem, z=np.roll(problem.z, 1, -1)) if problem.z.shape[-1] > 1 else None


def _whole_norm(result: Result, problem: Problem) -> Result | None:
    dim = problem.upstream.shape[-1]
    norm = np.linalg.norm(problem.z, axis=-1, keepdims=True)
    if not np.all(norm > 0):
        return None
    return result._replace(outputs=[problem.z[..., :dim] / norm])


def _larger_smallest_norm(result: Result, problem: Problem) -> Result | None:
    norm = np.linalg.norm(problem.z[..., : problem.upstream.shape[-1]], axis=-1, keepdims=True)
    return result._replace(outputs=[np.where(norm <= 1e-8, 0.0, result.outputs[0])])


def _scaled_gradient(result: Result, problem: Problem) -> Result | None:
    if result.gradients is None:
        return None
    return result._replace(gradients=[None if x is None else 1.25 * x for x in result.gradients])


def slice_off_by_one(problem: Problem) -> Problem | None:
    dims, weights = list(problem.layout.nesting.dims), problem.layout.nesting.weights
    if not problem.layout.tied or len(dims) < 2:
        return None
    dims[0] += 1 if dims[0] + 1 < dims[1] else -1
    return problem.with_layout(nesting=Nesting(dims, weights)) if dims[0] > 0 else None


def _bias(factor: float) -> Callable[[Problem], Problem | None]:
    def scaled(bias: Any) -> Any:
        finite = np.isfinite(bias)
        return np.where(finite, factor * np.where(finite, bias, 0.0), bias)

    def change(problem: Problem) -> Problem | None:
        head = problem.head
        if isinstance(head, TiedHead):
            return None if head.bias is None else problem.with_head(head._replace(bias=scaled(head.bias)))
        if head.biases is None:
            return None
        return problem.with_head(NestedHead(head.weights, tuple(map(scaled, head.biases))))

    return change


def _drop_class(problem: Problem) -> Problem | None:
    dropped = problem.layout.classes - 1
    if not problem.layout.bias or problem.layout.soft or dropped < 1 or (problem.labels == dropped).any():
        return None
    head = problem.head
    gone = np.arange(problem.layout.classes) == dropped

    def without(bias: Any) -> np.ndarray:
        return np.where(gone, -1e4, bias)

    if isinstance(head, TiedHead):
        return problem.with_head(head._replace(bias=without(head.bias)))
    return problem.with_head(NestedHead(head.weights, tuple(without(bias) for bias in head.biases or ())))


def reweighted(change: Callable[[float], float]) -> Callable[[Problem], Problem | None]:
    def apply(problem: Problem) -> Problem | None:
        nesting = problem.layout.nesting
        return problem.with_layout(nesting=Nesting(nesting.dims, [change(weight) for weight in nesting.weights]))

    return apply


def _next_label(problem: Problem) -> Problem | None:
    classes, ignored = problem.layout.classes, problem.layout.ignore_index
    if problem.layout.soft:
        return None if _excludes(problem) else replace(problem, labels=np.roll(problem.labels, 1, -1))
    after = (problem.labels + 1) % classes
    moved = (problem.labels != ignored) & (after != ignored)  # a row moved onto it would not count any more
    labels = np.where(moved, after, problem.labels)
    if _excludes(problem):
        return None  # an infinite loss would be no fair trial
    return replace(problem, labels=labels) if classes > 1 and moved.any() else None


def _excludes(problem: Problem) -> bool:
    return bool(np.isneginf(head_leaves(problem.head)[-1]).any())


def _with_ones(name: str) -> Callable[[Problem], Problem | None]:
    def apply(problem: Problem) -> Problem | None:
        weights = getattr(problem, name)
        return None if weights is None else replace(problem, **{name: np.ones_like(weights)})

    return apply


def _squared_level_weights(problem: Problem) -> Problem | None:
    weights = problem.level_weights
    return None if weights is None else replace(problem, level_weights=round_to(weights**2, problem.dtype))


def _soft(change: Callable[[Any], Any]) -> Callable[[Problem], Problem | None]:
    def apply(problem: Problem) -> Problem | None:
        if not problem.layout.soft:
            return None
        return replace(problem, labels=round_to(change(problem.labels), problem.dtype))

    return apply


def _renormalised(labels: Any) -> Any:
    whole = labels.sum(-1, keepdims=True)
    return np.where(whole > 0, labels / np.where(whole > 0, whole, 1), 0.0)


def _largest(labels: Any) -> Any:
    return np.eye(labels.shape[-1])[labels.argmax(-1)]


def _divided_by(wrong: Callable[[Problem, np.ndarray, np.ndarray, np.ndarray], Any]) -> Any:
    """A mean with another divisor: ``wrong(problem, used, weights of rows, class weights of labels)``."""

    def change(result: Result, problem: Problem) -> Result | None:
        layout, labels = problem.layout, problem.labels
        if layout.reduction != "mean" or layout.soft or not layout.weighted or not labels.size:
            return None
        used = np.ones(labels.shape, bool) if layout.ignore_index is None else labels != layout.ignore_index
        rows = np.ones(labels.shape) if problem.sample_weight is None else problem.sample_weight
        classes = np.ones(layout.classes) if problem.class_weight is None else problem.class_weight
        counted = classes[np.where(used, labels, 0)]
        right, other = np.where(used, rows * counted, 0.0).sum(), wrong(problem, used, rows, counted)
        return result._replace(outputs=[result.outputs[0] * (right / other), *result.outputs[1:]]) if other else None

    return change


def _weighted_levels(result: Result, problem: Problem) -> Result | None:
    if problem.level_weights is None:
        return None
    total, level = result.outputs
    return result._replace(outputs=[total, level * problem.level_weights.reshape(-1, *(1,) * (level.ndim - 1))])


def _left_out_as_zero(result: Result, problem: Problem) -> Result | None:
    total, level = result.outputs
    return result._replace(outputs=[total, np.nan_to_num(level)])


def _no_smoothing(problem: Problem) -> Problem | None:
    return problem.with_layout(label_smoothing=0.0) if problem.layout.label_smoothing else None


def mean_for_sum(result: Result, problem: Problem) -> Result | None:
    total, *rest = result.outputs
    return result._replace(outputs=[total / len(problem.layout.nesting), *rest])


def _ignored_rows_counted(result: Result, problem: Problem) -> Result | None:
    if problem.layout.ignore_index is None or problem.layout.reduction != "mean" or not problem.labels.size:
        return None
    share = np.mean(problem.labels != problem.layout.ignore_index)
    return result._replace(outputs=[share * result.outputs[0], *result.outputs[1:]])


def _other_upstream(problem: Problem) -> Problem | None:
    return replace(problem, upstream=round_to(problem.upstream * 1.5, problem.dtype))


GRADIENT = Mutant("gradient x 1.25", result=_scaled_gradient)
UPSTREAM = Mutant("another upstream gradient", _other_upstream)

TRUNCATE = (
    Mutant("slice starts one late", _roll),
    GRADIENT,
    UPSTREAM,
    Mutant("norm of the whole embedding", result=_whole_norm),
    Mutant("smallest norm 1e-8", result=_larger_smallest_norm, wide_range=True),
)

LOGITS = (
    Mutant("slice off by one", slice_off_by_one, retraces=True),
    Mutant("bias twice", _bias(2.0)),
    Mutant("bias dropped", _bias(0.0)),
    Mutant("slice starts one late", _roll),
    GRADIENT,
    UPSTREAM,
)

CROSS_ENTROPY = (
    *LOGITS,
    Mutant("one class dropped", _drop_class),
    Mutant("weight x 1.001", reweighted(lambda weight: 1.001 * weight), retraces=True),
    Mutant("weight applied twice", reweighted(lambda weight: weight * weight), retraces=True),
    Mutant("mean over levels for sum", result=mean_for_sum),
    Mutant("ignored rows counted in the mean", result=_ignored_rows_counted),
    Mutant("label off by one", _next_label),
    Mutant("label smoothing ignored", _no_smoothing, retraces=True),
    Mutant("sample weights ignored", _with_ones("sample_weight")),
    Mutant("class weights ignored", _with_ones("class_weight")),
    Mutant("level weights ignored", _with_ones("level_weights")),
    Mutant("level weights applied twice", _squared_level_weights),
    Mutant("level weights in the losses of levels", result=_weighted_levels),
    Mutant("soft targets made to sum to 1", _soft(_renormalised)),
    Mutant("the likeliest class for soft targets", _soft(_largest)),
    Mutant("mean over the number of rows", result=_divided_by(lambda problem, used, rows, counted: used.sum())),
    Mutant(
        "mean over the weights of ignored rows too",
        result=_divided_by(lambda problem, used, rows, counted: np.sum(rows * np.where(used, counted, 1.0))),
    ),
    Mutant(
        "class weights left out of the mean",
        result=_divided_by(lambda problem, used, rows, counted: np.where(used, rows, 0.0).sum()),
    ),
    Mutant("a level of weight zero reported as zero", result=_left_out_as_zero),
)
