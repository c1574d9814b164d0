"""Measures of a ranking, against loops that follow their definitions."""

import math

import numpy as np
import pytest

import mrl
from mrl import metrics
from mrl.dispatch import backend_named

RNG = np.random.default_rng(0)
QUERIES, ROWS, PLACES = 12, 30, 10
INDICES = np.stack([RNG.permutation(ROWS)[:PLACES] for _ in range(QUERIES)])
INDICES[3, 4:] = -1
INDICES[5] = -1
LABELS = RNG.integers(0, 4, ROWS)
OWN = RNG.integers(0, 5, QUERIES)  # 4 is nobody's
GAINS = np.where(RNG.random((QUERIES, ROWS)) < 0.3, RNG.random((QUERIES, ROWS)), 0.0)
GAINS[7] = 0
LISTS = np.full((QUERIES, ROWS), -1)
for i, row in enumerate(GAINS > 0):
    LISTS[i, : row.sum()] = RNG.permutation(np.flatnonzero(row))

FORMS = {
    "labels": ((OWN, LABELS), lambda i, j: float(OWN[i] == LABELS[j])),
    "lists": (LISTS, lambda i, j: float(GAINS[i, j] > 0)),
    "gains": (GAINS, lambda i, j: GAINS[i, j]),
    "bools": (GAINS > 0, lambda i, j: float(GAINS[i, j] > 0)),
}
FORM = pytest.mark.parametrize("form", FORMS)


def by_hand(name: str, form: str, k: int) -> list[float]:
    gain, found = FORMS[form][1], []
    for i in range(QUERIES):
        gains = [gain(i, j) if j >= 0 else 0.0 for j in INDICES[i]]
        every = sorted((gain(i, j) for j in range(ROWS)), reverse=True)
        hits = [g > 0 for g in gains]
        relevant = sum(g > 0 for g in every)
        if name == "precision_at_k":
            found.append(sum(hits[:k]) / k)
        elif name == "recall_at_k":
            found.append(sum(hits[:k]) / relevant if relevant else math.nan)
        elif name == "mean_average_precision_at_k":
            found.append(sum(hits[n] * sum(hits[: n + 1]) / (n + 1) for n in range(k)) / k)
        elif name == "ndcg_at_k":
            best = sum(g / math.log2(n + 2) for n, g in enumerate(every[:k]))
            found.append(sum(g / math.log2(n + 2) for n, g in enumerate(gains[:k])) / best if relevant else math.nan)
        elif name == "reciprocal_rank":
            found.append(1 / (1 + hits.index(True)) if any(hits) else 0.0)
        else:
            found.append(float(hits[0]))
    return found


@FORM
@pytest.mark.parametrize("k", [1, 3, PLACES])
@pytest.mark.parametrize("name", metrics.__all__)
def test_as_defined(name: str, form: str, k: int) -> None:
    options = {"k": k} if name.endswith("_k") else {}
    measure, relevant = getattr(metrics, name), FORMS[form][0]
    expected = by_hand(name, form, k)
    found = measure(INDICES, relevant, **options, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(measure(INDICES, relevant, **options), np.nanmean(expected), rtol=1e-12)


def test_arrays_of_any_framework_and_leading_shape(backend_name: str) -> None:
    backend = backend_named(backend_name)

    def array(values):
        return backend.from_numpy(np.asarray(values), dtype="int32", device=None)

    shaped = array(INDICES.reshape(3, 4, PLACES))
    relevant = (array(OWN.reshape(3, 4)), array(LABELS))
    found = metrics.precision_at_k(shaped, relevant, 4, reduction="none")
    assert found.shape == (3, 4)
    np.testing.assert_array_equal(
        found.reshape(-1), metrics.precision_at_k(INDICES, (OWN, LABELS), 4, reduction="none")
    )


def test_recall_of_a_search_against_an_exact_one(backend_name: str) -> None:
    rows = mrl.convert(RNG.normal(size=(200, 16)).astype(np.float32), backend_name)
    exact = mrl.search(rows[:20], rows, k=10)
    narrow = mrl.search(rows[:20], rows, k=10, dim=8)
    assert metrics.recall_at_k(exact.indices, exact.indices, 10) == 1
    assert 0.1 < metrics.recall_at_k(narrow.indices, exact.indices, 10) < 1


def test_nothing_relevant_anywhere() -> None:
    assert math.isnan(metrics.recall_at_k([[0, 1]], [[-1]], 2))
    assert metrics.precision_at_k([[0, 1]], [[-1]], 2) == 0
    assert metrics.precision_at_k(np.zeros((0, 3), int), np.zeros((0, 2), int), 3, reduction="none").shape == (0,)


def test_what_is_listed_twice_counts_once() -> None:
    assert metrics.recall_at_k([[0, 1]], [[0, 0, 5]], 2) == 0.5


@pytest.mark.parametrize(
    ("indices", "relevant", "k", "error", "message"),
    [
        ([[0.0]], [[0]], 1, TypeError, r"indices: expected an integer dtype, got float64"),
        (3, [0], 1, TypeError, r"indices: expected an array"),
        ([[0, 1]], [[0]], 3, ValueError, r"k: expected an integer in \[1, 2\], .* got 3"),
        ([[0, 1]], [[0]], 0, ValueError, r"k: expected an integer of at least 1"),
        ([[0, 1]], [[0], [1]], 1, ValueError, r"relevant: expected shape \(1, 'R'\), .* got \(2, 1\)"),
        ([[0, 1]], (np.array([1]),), 1, ValueError, r"relevant: expected \(query_labels, database_labels\), got 1"),
        ([[0, 1]], (np.array([1, 2]), np.array([1, 2])), 1, ValueError, r"relevant: expected labels of shapes \(1,\)"),
        ([[0, 2]], (np.array([1]), np.array([1, 2])), 1, ValueError, r"indices: expected rows in \[-1, 2\), got 2"),
        ([[0, 2]], [[0.5, 0.5]], 1, ValueError, r"indices: expected rows in \[-1, 2\), got 2"),
        ([[0, 1]], [[0.5, -0.5]], 1, ValueError, r"relevant: expected finite gains that are not negative"),
    ],
)
def test_errors(indices, relevant, k, error, message) -> None:
    with pytest.raises(error, match=message):
        metrics.precision_at_k(indices, relevant, k)
    with pytest.raises(ValueError, match="reduction: expected 'mean' or 'none', got 'sum'"):
        metrics.reciprocal_rank([[0]], [[0]], reduction="sum")
