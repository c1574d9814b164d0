"""How well classes are told apart: a linear head, and the nearest mean of few rows or of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .neighbours import Method
from .ranking import Measured
from .source import Float, Rows
from .ways import Way, unit_rows

Codes = NDArray[np.int64]

SHOTS = (1, 5, 10)

SHRINKAGE = 0.1
"""How much of the covariance within classes is made round."""


SCORES = 1 << 22
"""Scores of rows and means that are held at a time."""


class Parts(NamedTuple):
    """Labelled rows, apart: those that heads are fitted on, in order of their class, and those they are measured on."""

    fitted: Float
    fitted_labels: Codes
    held_out: Float
    labels: Codes
    classes: int
    rare: NDArray[np.bool_]


class Head(NamedTuple):
    """Logits are ``x @ weight.T + bias``."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def logits(self, x: Float) -> Float:
        found: Float = x @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        return found


def split(rows: Rows, labels: Codes, positions: tuple[Codes, Codes]) -> Parts:
    """The rows at these positions; ``labels`` ``(N,)`` are all there are, and say which classes are rare.

    A class is rare that has less than half as many rows as a class has on average.
    """
    fitted, held_out = positions
    fitted = fitted[np.argsort(labels[fitted], kind="stable")]
    counts = np.bincount(labels)
    return Parts(
        rows.take(fitted),
        labels[fitted],
        rows.take(held_out),
        labels[held_out],
        len(counts),
        2 * counts * np.count_nonzero(counts) < counts.sum(),
    )


def fit_head(x: Float, labels: Codes, classes: int) -> Head:
    """A linear head in closed form: linear discriminant analysis with a shrunk covariance.

    ``W = M S^-1`` and ``b_c = log(n_c / n) - M_c S^-1 M_c / 2``, with ``M`` the means of classes and
    ``S = (1 - a) S_w + a tr(S_w) / m I`` of the pooled covariance within them; ``a`` is 0.1. That is the Bayes
    classifier of Gaussian classes of one covariance, and its logits are log posteriors but for a constant.

    Args:
        x: ``(n, m)`` rows in order of their class.
        labels: ``(n,)`` in ``[0, classes)``.
        classes: how many there are; one without a row is never chosen.

    Source: Ledoit and Wolf, J. Multivariate Analysis 88 (2004), for the form of ``S``.
    """
    present, counts, means = class_means(x, labels)
    centred = x - means.astype(np.float32)[np.searchsorted(present, labels)]
    within = (centred.T @ centred).astype(np.float64) / len(x)
    spread = float(np.trace(within)) / len(within)
    within *= 1 - SHRINKAGE
    within[np.diag_indices(len(within))] += SHRINKAGE * spread if spread > 0 else 1.0
    solved = np.linalg.solve(within, means.T).T
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -np.inf)
    weight[present] = solved
    bias[present] = np.log(counts / len(x)) - np.einsum("cm,cm->c", means, solved) / 2
    return Head(weight, bias)


def class_means(x: Float, labels: Codes) -> tuple[Codes, Codes, NDArray[np.float64]]:
    """The classes that are there, how many rows each has, and their means; rows are in order of their class."""
    present, first, counts = np.unique(labels, return_index=True, return_counts=True)
    return present, counts, np.add.reduceat(x, first, axis=0, dtype=np.float64) / counts[:, None]


def nearest_mean(x: Float, means: Float, metric: str) -> Codes:
    """The place of the best mean for every row, by the metric of the search; ``means`` ``(..., m)``."""
    flat = means.reshape(-1, means.shape[-1])
    flat = unit_rows(flat) if metric == "cosine" else flat
    squares = np.square(flat).sum(1) if metric == "l2" else None
    best = []
    step = max(1, SCORES // max(1, len(flat)))
    for start in range(0, len(x), step):
        scores = x[start : start + step] @ flat.T
        if squares is not None:
            scores = 2 * scores - squares
        best.append(scores.reshape(len(scores), *means.shape[:-1]).argmax(-1))
    found: Codes = np.concatenate(best)
    return found


def draw_shots(labels: Codes, shots: int, episodes: int, seed: int) -> list[tuple[Codes, Codes]]:
    """For each class that is there ``(E, s)`` places of its rows, ``s`` the shots or all it has; and the classes."""
    rng = np.random.default_rng(seed)
    present, first, counts = np.unique(labels, return_index=True, return_counts=True)
    drawn = []
    for name, start, count in zip(present, first, counts, strict=True):
        order = rng.permuted(np.broadcast_to(np.arange(count), (episodes, count)), axis=1)
        drawn.append((np.asarray(name), start + order[:, : min(shots, count)]))
    return drawn


def measure_classes(parts: Parts, ways: Sequence[Way], sizes: Sequence[int], seed: int, episodes: int) -> Measured:
    """1 where a held-out row is told its class, 0 where not; of few shots ``(n, episodes)``, one for each draw."""
    measured: Measured = {}
    draws = {shots: draw_shots(parts.fitted_labels, shots, episodes, seed + shots) for shots in SHOTS}
    for way in ways:
        fitted, held_out = way.turn(parts.fitted), way.turn(parts.held_out)
        for m in sizes:
            if m > fitted.shape[1]:
                continue
            if way.exact and way.name != "prefix" and m == sizes[-1]:
                again = {metric: values for (name, n, metric), values in measured.items() if (name, n) == ("prefix", m)}
            else:
                again = at_size(parts, cut(fitted, m, way), cut(held_out, m, way), way, draws)
            measured |= {(way.name, m, metric): values for metric, values in again.items()}
    return measured


def cut(x: Float, m: int, way: Way) -> Float:
    return unit_rows(x[:, :m]) if way.means == "cosine" else np.ascontiguousarray(x[:, :m])


def at_size(
    parts: Parts, x: Float, y: Float, way: Way, draws: dict[int, list[tuple[Codes, Codes]]]
) -> dict[str, NDArray[np.float64]]:
    right = fit_head(x, parts.fitted_labels, parts.classes).logits(y).argmax(1) == parts.labels
    found = {"linear_accuracy": right.astype(np.float64)}
    for shots, drawn in draws.items():
        means = np.stack([x[places].mean(1) for _, places in drawn], 1)  # (E, classes, m)
        names = np.array([name for name, _ in drawn])
        told = names[nearest_mean(y, means, way.means)]
        found[f"fewshot_accuracy_{shots}"] = (told == parts.labels[:, None]).astype(np.float64)
    if parts.rare.any():
        present, _, means = class_means(x, parts.fitted_labels)
        rare = parts.rare[parts.labels]
        told = present[nearest_mean(y, means.astype(np.float32), way.means)]
        found["rare_accuracy"] = np.where(rare, told == parts.labels, np.nan)
    return found


def heads_of(parts: Parts, way: Way, sizes: Sequence[int]) -> dict[Method, Float]:
    """The logits ``(n, C)`` of the held-out rows by the heads of each size of one way."""
    found = {}
    fitted, held_out = way.turn(parts.fitted), way.turn(parts.held_out)
    for m in sizes:
        head = fit_head(cut(fitted, m, way), parts.fitted_labels, parts.classes)
        found[way.name, m] = head.logits(cut(held_out, m, way))
    return found
