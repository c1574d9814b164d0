"""The specification of the contrastive loss: worked by hand, and its gradients by central differences."""

import numpy as np
import pytest

import mrl
from mrl import spec

NESTING = mrl.Nesting((1, 3, 4), weights=(0.5, 2.0, 1.0))


def problem(seed: int):
    """Embeddings with a zero prefix and a duplicate among them, and every option in turn."""
    rng = np.random.default_rng(seed)
    anchors, positives, negatives = (rng.normal(size=shape) for shape in ((3, 5), (3, 5), (2, 2, 5)))
    anchors[0, 0], positives[1] = 0.0, positives[2]
    options = {
        "negatives": negatives if seed % 2 else None,
        "temperature": np.array([0.5, 0.8, 1.5]) if seed % 3 else np.array(0.7),
        "symmetric": seed % 4 > 1,
        "similarity": "dot" if seed % 5 > 2 else "cosine",
        "reduction": ("mean", "sum", "none")[seed % 3],
    }
    if seed % 7 > 3:
        options["exclude"] = rng.random((3, 7 if seed % 2 else 3)) < 0.4
        np.fill_diagonal(options["exclude"][:, :3], False)
    return anchors, positives, options, rng.normal(size=3 if options["reduction"] == "none" else ())


def naive(anchors, positives, *, negatives, temperature, symmetric, similarity, reduction, exclude=None):
    """One pair after the other."""
    candidates = list(positives) + ([] if negatives is None else list(negatives.reshape(-1, positives.shape[1])))
    total = np.zeros(len(anchors))
    for g, (dim, weight) in enumerate(zip(NESTING.dims, NESTING.weights, strict=True)):
        t = temperature[g] if np.ndim(temperature) else temperature

        def pair(a, c, dim=dim, t=t):
            a, c = a[:dim], c[:dim]
            if similarity == "cosine":
                a, c = (x / np.linalg.norm(x) if np.linalg.norm(x) > 1e-12 else 0 * x for x in (a, c))
            return float(a @ c) / t

        for i, anchor in enumerate(anchors):
            rows = [j for j in range(len(candidates)) if exclude is None or not exclude[i, j]]
            loss = np.log(sum(np.exp(pair(anchor, candidates[j])) for j in rows)) - pair(anchor, positives[i])
            if symmetric:
                others = [j for j in range(len(anchors)) if exclude is None or not exclude[j, i]]
                back = np.log(sum(np.exp(pair(anchors[j], positives[i])) for j in others))
                loss = (loss + back - pair(anchor, positives[i])) / 2
            total[i] += weight * loss
    return {"none": total, "sum": total.sum(), "mean": total.mean()}[reduction]


@pytest.mark.parametrize("seed", range(28))
def test_values_and_gradients(seed: int) -> None:
    anchors, positives, options, upstream = problem(seed)
    loss = spec.nested_contrastive(anchors, positives, NESTING, **options)
    np.testing.assert_allclose(loss.total, naive(anchors, positives, **options), rtol=1e-12, atol=1e-14)
    weights = np.reshape(NESTING.weights, (-1, *(1,) * loss.total.ndim))
    np.testing.assert_allclose((weights * loss.per_level).sum(0), loss.total, rtol=1e-12)
    found = spec.nested_contrastive_vjp(anchors, positives, NESTING, upstream, **options)
    given = {"anchors": anchors, "positives": positives, **options}
    for name, gradient in zip(found._fields, found, strict=True):
        if given[name] is None:
            assert gradient is None
            continue
        numeric = np.zeros_like(given[name])
        for place in np.ndindex(numeric.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = np.array(given[name])
                moved[place] += step
                total = spec.nested_contrastive(**{**given, name: moved}, nesting=NESTING).total
                values.append(np.sum(upstream * total))
            numeric[place] = (values[0] - values[1]) / 2e-6
        if name == "anchors" and options["similarity"] == "cosine":
            numeric[0, 0] = gradient[0, 0]  # a prefix of zero has no derivative, and a gradient of zero by rule
        assert gradient.shape == numeric.shape
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)


def test_a_zero_prefix_has_no_gradient() -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert spec.nested_contrastive_vjp(x, x[::-1], mrl.Nesting((1,)), 1.0).anchors[0].tolist() == [0.0, 0.0]


def test_one_row_loses_nothing_and_no_row_has_no_loss() -> None:
    assert spec.nested_contrastive(np.ones((1, 4)), np.ones((1, 4)), NESTING).total == 0
    empty = spec.nested_contrastive(np.ones((0, 4)), np.ones((0, 4)), NESTING)
    assert empty.total == 0 and empty.per_level.tolist() == [0.0, 0.0, 0.0]


def test_what_is_wrong_is_no_number() -> None:
    """A positive that is excluded, of its own row alone; a temperature that is not positive, of its own level alone."""
    x, exclude = np.eye(4)[:2], np.array([[True, False], [False, False]])
    total = spec.nested_contrastive(x, x, NESTING, exclude=exclude, reduction="none").total
    assert np.isnan(total).tolist() == [True, False]
    loss = spec.nested_contrastive(x, x, NESTING, temperature=[0.0, 1.0, 1.0])
    assert np.isnan(loss.total) and np.isnan(loss.per_level).tolist() == [True, False, False]


def test_a_level_of_weight_zero_is_left_out() -> None:
    nesting = mrl.Nesting((1, 2), weights=(0.0, 1.0))
    x = np.eye(2)
    loss = spec.nested_contrastive(x, x, nesting, temperature=[np.nan, 1.0])
    assert np.isnan(loss.per_level[0]) and loss.total == loss.per_level[1]
    gradients = spec.nested_contrastive_vjp(x, x, nesting, 1.0, temperature=[np.nan, 1.0])
    assert np.isfinite(gradients.anchors).all() and gradients.temperature[0] == 0
