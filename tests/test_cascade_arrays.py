"""What fits and reports read: arrays of any framework beside any other's, and lists, under any settings of NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
from cascade_cases import softmax_outputs

import mrl
from mrl.dispatch import backend_named

PROBABILITIES, LABELS = softmax_outputs(120, 3)
PROBABILITIES = PROBABILITIES.astype(np.float32)
NESTING = mrl.Nesting((8, 16, 32))
POLICY = mrl.CascadePolicy((0.7, 0.6), NESTING.dims)

USES: dict[str, Callable] = {
    "fit": lambda p, y: mrl.fit_cascade(p, y, NESTING, method="budget", dim=14, temperatures="fit"),
    "temperatures": lambda p, y: mrl.fit_temperatures(p, y),
    "report": lambda p, y: mrl.cascade_report(p, y, POLICY),
    "curve": lambda p, y: mrl.cascade_curve(p, y, [POLICY, POLICY.capped(2)]),
}
USE = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())


def array(name: str, values, dtype: str | None = None):
    return backend_named(name).from_numpy(np.asarray(values), dtype=dtype, device=None)


@USE
def test_labels_of_numpy_or_a_list_beside_any_framework(backend_name: str, use: Callable) -> None:
    expected = use(PROBABILITIES, LABELS)
    values = array(backend_name, PROBABILITIES)
    for labels in (LABELS, LABELS.astype(np.uint8), LABELS.tolist(), tuple(LABELS.tolist()), list(LABELS)):
        assert use(values, labels) == expected
    for labels in (array(backend_name, LABELS, "int32"), list(array(backend_name, LABELS, "int32"))):
        assert use(PROBABILITIES, labels) == expected
    shaped = array(backend_name, PROBABILITIES.reshape(3, 6, 20, 5))
    assert use(shaped, LABELS.reshape(6, 20).tolist()) == expected


def test_pairs_of_two_frameworks(backend_name: str) -> None:
    confidence, correct = PROBABILITIES.max(-1), PROBABILITIES.argmax(-1) == LABELS
    expected = mrl.cascade_report((confidence, correct), None, POLICY)
    assert mrl.cascade_report((array(backend_name, confidence), correct), None, POLICY) == expected
    assert mrl.cascade_report((confidence, array(backend_name, correct)), None, POLICY) == expected


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.0] * 120, TypeError, r"labels: expected an integer dtype, got float64; give class indices"),
        ([True] * 120, TypeError, r"labels: expected an integer dtype, got bool"),
        (["0"] * 120, TypeError, r"labels: expected an integer dtype"),
        ([[0] * 60, [0] * 59], ValueError, r"labels: expected one class index per example, got a ragged list"),
        ([0] * 119, ValueError, r"labels: expected shape \(120,\), .* got \(119,\); give one label per example"),
        ([5] + [0] * 119, ValueError, r"labels: expected values in \[0, 5\), got 5 at position 0; correct the label"),
        ([0] * 119 + [-1], ValueError, r"labels: expected values in \[0, 5\), got -1 at position 119"),
        ([], ValueError, r"labels: expected shape \(120,\), .* got \(0,\)"),
        ("012", TypeError, r"labels: expected an array of one of .* got str"),
    ],
)
@USE
def test_lists_that_are_no_labels(backend_name: str, use: Callable, labels, error, message) -> None:
    with pytest.raises(error, match=message):
        use(array(backend_name, PROBABILITIES), labels)


@USE
def test_masked_arrays_are_refused(use: Callable) -> None:
    """What their mask hides would count."""
    masked = np.ma.masked_array(LABELS, LABELS == 0)
    with pytest.raises(TypeError, match="labels: expected an array without a mask"):
        use(PROBABILITIES, masked)
    with pytest.raises(TypeError, match=r"(probabilities|logits): expected an array without a mask"):
        use(np.ma.masked_array(PROBABILITIES, PROBABILITIES < 0.1), LABELS)
    pair = np.ma.masked_array(PROBABILITIES.max(-1)), PROBABILITIES.argmax(-1) == LABELS
    with pytest.raises(TypeError, match="confidence: expected an array without a mask"):
        mrl.cascade_report(pair, None, POLICY)


@USE
def test_wrapped_arrays_are_opened(backend_jax: None, use: Callable) -> None:
    from flax import nnx

    values, labels = nnx.Variable(array("jax", PROBABILITIES)), nnx.Variable(array("jax", LABELS, "int32"))
    assert use(values, labels) == use(values, LABELS) == use(PROBABILITIES, LABELS)


@USE
def test_no_example_at_all(use: Callable) -> None:
    with pytest.raises(ValueError, match=r"labels: expected at least one example, got shape \(0,\)"):
        use(PROBABILITIES[:, :0], [])


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("temperatures", [None, (0.01, 1.0, 3.0)])
def test_strict_settings_of_numpy_change_nothing(confidence: str, temperatures) -> None:
    """Softmax underflows, and excluded classes are infinite: that is how it is meant."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        with np.errstate(all="ignore"):
            logits = (rng.normal(size=(3, 90, 5)) * np.tile([1e-30, 1.0, 3e2, 1e30, 1e-3], 18)[:, None]).astype(dtype)
            logits[:, 1::7, 0] = -np.inf
            shifted = logits - logits.max(-1, keepdims=True)
            probabilities = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
            probabilities[0, :30] = np.array([1, 1e-30, 0, 0, 1e-44]).astype(dtype)
            labels = logits[-1].argmax(-1)
        policy = mrl.CascadePolicy((0.9, 1e-300), NESTING.dims, confidence=confidence, temperatures=temperatures)

        def everything(*, x=logits, p=probabilities, y=labels, policy=policy):
            for values, is_logits in ((p, False), (x, True)):
                exits = mrl.spec.cascade_exit(values, policy, logits=is_logits)
                yield [field.tolist() for field in exits]
                yield mrl.cascade_report(values, y, policy, logits=is_logits)
                yield mrl.cascade_curve(values, y, [policy, policy.capped(1)], logits=is_logits)
                for options in ({}, {"method": "budget", "dim": 20}, {"method": "risk", "drop": 0.1}):
                    yield mrl.fit_cascade(
                        values,
                        y,
                        NESTING,
                        logits=is_logits,
                        confidence=confidence,
                        temperatures="fit" if temperatures is None and "drop" not in options else temperatures,
                        **options,
                    )
            yield mrl.fit_temperatures(x, y)
            yield mrl.CascadePolicy((1e-300, 1e-42), NESTING.dims).cuts32

        expected = list(map(repr, everything()))
        with np.errstate(all="raise"):
            assert list(map(repr, everything())) == expected
            with pytest.raises(FloatingPointError):  # the setting is the caller's again
                np.float32(1e-30) * np.float32(1e-30)
