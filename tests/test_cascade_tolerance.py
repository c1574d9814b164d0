"""Probabilities as other libraries round them: one tolerance, and one meaning of what lies outside [0, 1]."""

import numpy as np
import pytest
from cascade_cases import host

import mrl
from mrl.dispatch import backend_named
from mrl.testing.drivers import driver_of

TOLERANCE = {"float16": 1e-2, "bfloat16": 2e-2, "float32": 1e-3, "float64": 1e-3}
NAN = np.nan


@pytest.fixture
def make(backend_name: str):
    return lambda values, dtype="float32": backend_named(backend_name).from_numpy(
        np.asarray(values, np.float64 if dtype == "float64" else np.float32), dtype=dtype, device=None
    )


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("rows", [1, 400])
def test_what_rounding_brought_outside_counts_as_the_end(make, confidence: str, temperature: float, rows: int) -> None:
    outside = np.array([[1 + 2e-7, -1e-7, -1e-7], [0.6, 0.4, -1e-7], [1 + 5e-4, 0, 0], [NAN, -1e-7, 1], [0.5, NAN, 2]])
    inside = np.array([[1, 0, 0], [0.6, 0.4, 0], [1, 0, 0], [NAN, 0, 1], [0.5, NAN, 1]])
    outside, inside = (np.tile(x, (3, rows, 1)).astype(np.float32) for x in (outside, inside))
    policy = mrl.CascadePolicy((0.5, 0.5), (1, 2, 4), confidence=confidence, temperatures=(temperature,) * 3)
    result, expected = (host(mrl.cascade_exit(make(x), policy)) for x in (outside, inside))
    exact = mrl.spec.cascade_exit(inside, policy)
    for found, same, true in zip(result, expected, exact, strict=True):
        np.testing.assert_array_equal(found, same)
        np.testing.assert_allclose(found, true, rtol=2e-5, atol=2e-6)
    for found, true in zip(mrl.spec.cascade_exit(outside, policy), exact, strict=True):
        np.testing.assert_array_equal(found, true)
    assert result[0].tolist()[3::5] == [-1] * rows and not (result[2] > 1).any()


def test_one_tolerance_for_entries_sums_and_pairs(make, backend_name: str) -> None:
    policy = mrl.CascadePolicy((0.5,), (2, 4))
    for dtype in driver_of(backend_name).dtypes:
        near = TOLERANCE[dtype]
        for row in ((-near / 2, 1 + near / 2), (0.5, 0.5 + near / 2), (0.5, 0.5 - near / 2)):
            mrl.cascade_exit(make([[[0.5, 0.5]], [row]], dtype), policy)
        for row in ((-2 * near, 1 + 2 * near), (0.5, 0.5 + 2 * near), (0.5, 0.5 - 2 * near)):
            with pytest.raises(ValueError, match=rf"within {near}, got level 1, row 0 with entries from"):
                mrl.cascade_exit(make([[[0.5, 0.5]], [row]], dtype), policy)
        correct = make([[1.0], [1.0]]) > 0.5
        for confidence in (-near / 2, 1 + near / 2):
            report = mrl.cascade_report((make([[confidence], [0.5]], dtype), correct), None, policy)
            assert report.exit_fractions[0].value == (confidence > 0.5)
        for confidence in (-2 * near, 1 + 2 * near):
            with pytest.raises(ValueError, match=rf"confidence: expected numbers in \[0, 1\] within {near}, got"):
                mrl.cascade_report((make([[confidence], [0.5]], dtype), correct), None, policy)


def test_an_entry_past_one_is_refused_by_itself() -> None:
    """Others below zero make up for it in the sum, and are near enough to be let through."""
    row = [1.0018, -9e-4, -9e-4]
    with pytest.raises(ValueError, match=r"entries from -0\.0009 to 1\.0018 and sum 1;"):
        mrl.cascade_exit(np.array([[row]]), mrl.CascadePolicy((), (2,)))


def test_fits_and_reports_take_what_cascades_do() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.2), (2, 60))
    off = probabilities + np.where(probabilities < 1e-3, -1e-7, 0)
    exact = np.where(probabilities < 1e-3, np.clip(off, 0, 1), probabilities)
    labels, nesting = rng.integers(0, 4, 60), mrl.Nesting((2, 4))
    for options in ({}, {"method": "budget", "dim": 3}, {"temperatures": "fit"}, {"confidence": "entropy"}):
        policy = mrl.fit_cascade(off, labels, nesting, **options)
        assert policy == mrl.fit_cascade(exact, labels, nesting, **options)
        assert mrl.cascade_report(off, labels, policy) == mrl.cascade_report(exact, labels, policy)
