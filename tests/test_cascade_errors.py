"""Every bad argument of the cascades, in every backend."""

import math

import numpy as np
import pytest

import mrl
from mrl.dispatch import backend_named

POLICY = mrl.CascadePolicy((0.5,), (2, 4))
NESTING = mrl.Nesting((2, 4))


def maker(name: str):
    backend = backend_named(name)

    def array(values, dtype="float32"):
        return backend.from_numpy(np.asarray(values, dtype), dtype=dtype, device=None)

    return array


@pytest.fixture
def make(backend_name: str):
    return maker(backend_name)


HALVES = np.full((2, 3, 2), 0.5)

BAD_EXITS = [
    ("dims for a policy", {"policy": (2, 4)}, TypeError, r"policy: expected an mrl\.CascadePolicy, got tuple"),
    ("a list", {"values": HALVES.tolist()}, TypeError, r"probabilities: expected an array of one of .* got list"),
    ("integers", {"dtype": "int32"}, TypeError, r"probabilities: expected a dtype of .*float32.*, got int32"),
    ("too many levels", {"shape": (3, 3, 2)}, ValueError, r"probabilities: expected shape \(G, \.\.\., C\) with G = 2"),
    ("no class", {"shape": (2, 3, 0)}, ValueError, r"C at least 1, got \(2, 3, 0\)"),
    ("one axis", {"shape": (2,)}, ValueError, r"probabilities: expected shape"),
    (
        "logits",
        {"shape": (2, 3, 2)},
        ValueError,
        r"got level 0, row 0 with .* sum 0; pass logits=True",
    ),
    ("a negative", {"row": (-0.5, 1.5)}, ValueError, r"got level 1, row 2 with entries from -0\.5 to 1\.5 and sum 1;"),
    (
        "a sum above 1",
        {"row": (0.5, 0.6)},
        ValueError,
        r"got level 1, row 2 with entries from 0\.5 to 0\.6 and sum 1\.1",
    ),
    ("logits as text", {"logits": "yes"}, TypeError, r"logits: expected True or False, got 'yes'"),
]


@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD_EXITS], ids=[b[0] for b in BAD_EXITS])
def test_cascade_exit_refuses(make, change, error, message) -> None:
    values = np.zeros(change["shape"]) if "shape" in change else HALVES.copy()
    if "row" in change:
        values[1, 2] = change["row"]
    array = change.get("values") or make(values, change.get("dtype", "float32"))
    with pytest.raises(error, match=message):
        mrl.cascade_exit(array, change.get("policy", POLICY), logits=change.get("logits", False))


BAD_PREDICTIONS = [
    ("no policy", {"policy": 0.5}, TypeError, r"policy: expected an mrl\.CascadePolicy, got float"),
    ("a narrow z", {"z": (3, 3)}, ValueError, r"z: expected shape \(\.\.\., D\) with D at least 4, got \(3, 3\)"),
    ("a narrow weight", {"weight": (5, 3)}, ValueError, r"head\.weight: expected shape \(C, D\) with D = 4"),
    ("an integer z", {"z_dtype": "int32"}, TypeError, r"z: expected a dtype of"),
    ("no chunk", {"chunk_rows": 0}, ValueError, r"chunk_rows: expected an integer of at least 1, got 0"),
    ("a float chunk", {"chunk_rows": 1.5}, TypeError, r"chunk_rows: expected an integer"),
    ("no head", {"head": None}, TypeError, r"head: expected an mrl\.TiedHead or mrl\.NestedHead, got NoneType"),
    (
        "a level too few",
        {"head": "short"},
        ValueError,
        r"head\.weights: expected one array per .*, got 1",
    ),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), [b[1:] for b in BAD_PREDICTIONS], ids=[b[0] for b in BAD_PREDICTIONS]
)
def test_cascade_predict_refuses(make, change, error, message) -> None:
    z = make(np.zeros(change.get("z", (3, 4))), change.get("z_dtype", "float32"))
    head = mrl.TiedHead(make(np.zeros(change.get("weight", (5, 4)))))
    if "head" in change:
        head = mrl.NestedHead((make(np.zeros((5, 2))),)) if change["head"] else None
    with pytest.raises(error, match=message):
        mrl.cascade_predict(z, head, change.get("policy", POLICY), chunk_rows=change.get("chunk_rows"))


PAIR = (np.full((2, 3), 0.5), np.ones((2, 3), bool))
BUDGET, RISK = {"method": "budget", "dim": 3}, {"method": "risk", "drop": 0.1}

BAD_FITS = [
    ("unknown method", {"method": "grid"}, ValueError, r"method: expected one of .*greedy.*, got 'grid'"),
    (
        "dim without budget",
        {"dim": 3},
        TypeError,
        r"dim: expected nothing with method='greedy', got 3",
    ),
    ("delta for a budget", {**BUDGET, "delta": 0.1}, TypeError, r"delta: expected nothing with method='budget'"),
    ("a list of methods", {"method": ["greedy"]}, ValueError, r"method: expected one of"),
    ("no dim", {"method": "budget"}, TypeError, r"dim: expected a number with method='budget', got None"),
    ("no target", {"method": "accuracy"}, TypeError, r"target: expected a number with .*, or drop, .* got target=None"),
    (
        "target and drop",
        {"method": "accuracy", "target": 0.7, "drop": 0.0},
        TypeError,
        r"target: expected .*, or drop, and not both, got target=0\.7 and drop=0\.0; say how accurate",
    ),
    (
        "a drop of percents",
        {"method": "accuracy", "drop": 1.5},
        ValueError,
        r"drop: expected a share in \[0, 1\), got 1\.5",
    ),
    (
        "a drop within a budget",
        {**BUDGET, "drop": 0.1},
        TypeError,
        r"drop: .* it belongs to method='accuracy' or 'risk'",
    ),
    ("a target in dims", {**BUDGET, "target": 0.1}, TypeError, r"target: .* it belongs to method='accuracy'$"),
    ("no drop", {"method": "risk"}, TypeError, r"drop: expected a number with method='risk'"),
    ("dim as text", {**BUDGET, "dim": "3"}, TypeError, r"dim: expected a number, got '3'"),
    ("dim as bool", {**BUDGET, "dim": True}, TypeError, r"dim: expected a number, got True"),
    ("no dimensions", {**BUDGET, "dim": 0}, ValueError, r"dim: expected a positive finite number of .*; an average of"),
    ("too many dimensions", {**BUDGET, "dim": 10**400}, ValueError, r"dim: expected a positive finite number"),
    ("NaN dimensions", {**BUDGET, "dim": math.nan}, ValueError, r"dim: expected a positive finite number"),
    ("percent", {"method": "accuracy", "target": 76.3}, ValueError, r"target: expected a share in \[0, 1\], got 76\.3"),
    ("a drop of all", {**RISK, "drop": 1}, ValueError, r"drop: expected a share in \[0, 1\)"),
    ("no delta", {**RISK, "delta": 0}, ValueError, r"delta: expected a probability between 0 and 1"),
    ("unknown confidence", {"confidence": "max"}, ValueError, r"confidence: expected one of"),
    ("unknown temperatures", {"temperatures": "auto"}, ValueError, r"temperatures: expected numbers, 'fit' or None"),
    ("one temperature", {"temperatures": (1.0,)}, ValueError, r"temperatures: expected 2 numbers"),
    (
        "fit and risk",
        {**RISK, "temperatures": "fit"},
        ValueError,
        r"temperatures: .* voids the guarantee",
    ),
    ("logits as text", {"logits": 1}, TypeError, r"logits: expected True or False, got 1"),
    (
        "logits unsaid",
        {"values": HALVES * 4},
        ValueError,
        r"probabilities: expected rows .* pass logits=True",
    ),
    ("a level too many", {"values": np.full((3, 3, 2), 0.5)}, ValueError, r"probabilities: expected shape .* G = 2"),
    ("labels of another shape", {"labels": [0, 1]}, ValueError, r"labels: expected shape \(3,\)"),
    (
        "a label out of range",
        {"labels": [0, 2, 1]},
        ValueError,
        r"labels: expected values in \[0, 2\), got 2 at position \d+; correct the label$",
    ),
    ("a label below zero", {"labels": [0, -1, 1]}, ValueError, r"labels: .*got -1 at position 1"),
    ("no labels", {"labels": None}, TypeError, r"labels: expected one class index per example, got None"),
    ("dims for a nesting", {"nesting": (2, 4)}, TypeError, r"nesting: expected an mrl\.Nesting"),
    ("no example", {"values": np.zeros((2, 0, 2)), "labels": []}, ValueError, r"labels: expected at least one example"),
]


@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD_FITS], ids=[b[0] for b in BAD_FITS])
def test_fit_cascade_refuses(make, change, error, message) -> None:
    change = dict(change)
    values, labels = make(change.pop("values", HALVES)), change.pop("labels", [0, 1, 0])
    labels = None if labels is None else make(labels, "int32")
    with pytest.raises(error, match=message):
        mrl.fit_cascade(values, labels, change.pop("nesting", NESTING), **change)


BAD_PAIRS = [
    ("labels too", {"labels": np.zeros(3, int)}, ValueError, r"labels: expected nothing beside a pair"),
    ("temperatures too", {"temperatures": (1.0, 1.0)}, ValueError, r"temperatures: expected nothing beside a pair"),
    ("fitted temperatures", {"temperatures": "fit"}, ValueError, r"temperatures: expected None with a pair"),
    ("logits too", {"logits": True}, ValueError, r"logits: expected nothing beside a pair"),
    ("three", {"pair": (*PAIR, PAIR[0])}, ValueError, r"expected an array or a pair \(confidence, correct\), got 3"),
    ("counts", {"pair": (PAIR[0], PAIR[1].astype(int))}, TypeError, r"correct: expected bools, got int64"),
    ("integers", {"pair": (PAIR[1].astype(int), PAIR[1])}, TypeError, r"confidence: expected a dtype of"),
    ("another shape", {"pair": (PAIR[0], PAIR[1][:, :2])}, ValueError, r"correct: expected shape \(G, N\) with G = 2"),
    ("another G", {"pair": (PAIR[0][:1], PAIR[1][:1])}, ValueError, r"confidence: expected shape \(G, N\) with G = 2"),
    ("largest logits", {"pair": (PAIR[0] + 2, PAIR[1])}, ValueError, r"confidence: .* got 2\.5 at level 0, example 0"),
    (
        "negative",
        {"pair": (PAIR[0] - 1, PAIR[1])},
        ValueError,
        r"confidence: expected numbers in \[0, 1\] within 0\.001, got -0\.5",
    ),
    ("none", {"pair": (PAIR[0][:, :0], PAIR[1][:, :0])}, ValueError, r"confidence: expected at least one example"),
]


@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD_PAIRS], ids=[b[0] for b in BAD_PAIRS])
def test_pairs_are_refused(change, error, message) -> None:
    change = dict(change)
    with pytest.raises(error, match=message):
        mrl.fit_cascade(change.pop("pair", PAIR), change.pop("labels", None), NESTING, **change)


def test_a_list_of_logits_is_refused() -> None:
    with pytest.raises(TypeError, match=r"logits: expected an array of one of .*, got list"):
        mrl.fit_temperatures([[[1.0, 2.0]]], np.array([0]))


def test_two_frameworks_in_one_call(backend_torch: None) -> None:
    with pytest.raises(TypeError, match="arguments: expected arrays of one framework"):
        mrl.cascade_predict(maker("torch")(np.zeros((1, 4))), mrl.TiedHead(np.zeros((3, 4))), POLICY)


def traced(framework_name: str, function, values, labels):
    """``function`` where arrays have no values."""
    if framework_name == "jax":
        import jax

        return jax.jit(function)(values, labels)
    if framework_name == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)(values, labels)
    import torch

    return torch.func.vmap(lambda x: function(x, labels))(values[None])


def test_traced_arrays_are_refused(framework_name: str) -> None:
    make = maker(framework_name)

    def fit(values, labels):
        return mrl.fit_cascade(values, labels, NESTING)

    with pytest.raises(TypeError, match=r"probabilities: expected an array with values, .*outside of jit"):
        traced(framework_name, fit, make(HALVES), make([0, 1, 0], "int32"))


def test_reports_curves_and_figures_refuse(make) -> None:
    values, labels = make(HALVES), make([0, 1, 0], "int32")
    with pytest.raises(TypeError, match=r"policy: expected an mrl\.CascadePolicy"):
        mrl.cascade_report(values, labels, (0.5,))
    with pytest.raises(ValueError, match="confidence_level: expected a number between 0 and 1, got 95"):
        mrl.cascade_report(values, labels, POLICY, confidence_level=95)
    with pytest.raises(TypeError, match="confidence_level: expected a number, got '95'"):
        mrl.cascade_report(values, labels, POLICY, confidence_level="95")
    with pytest.raises(TypeError, match="seed: expected an integer"):
        mrl.cascade_report(values, labels, POLICY, seed=0.5)
    with pytest.raises(ValueError, match="policies: expected at least one policy"):
        mrl.cascade_curve(values, labels, [])
    with pytest.raises(TypeError, match=r"policy: expected an mrl\.CascadePolicy"):
        mrl.cascade_curve(values, labels, [POLICY, 0.5])
    with pytest.raises(ValueError, match=r"policies\[1\]: expected the first of dims \(2, 4\), got \(3,\)"):
        mrl.cascade_curve(values, labels, [POLICY, mrl.CascadePolicy((), (3,))])
    other = mrl.CascadePolicy((0.5,), (2, 5))
    with pytest.raises(
        ValueError, match=r"policies\['b'\]: expected the first of dims \(2, 4\), got \(2, 5\); compare policies of one"
    ):
        mrl.plot_cascade(values, labels, {"a": POLICY, "b": other})
    with pytest.raises(ValueError, match=r"policies\['b'\]\[1\]: expected the first of dims \(2, 4\), got \(2, 5\)"):
        mrl.plot_cascade(values, labels, {"a": POLICY, "b": [POLICY, other]})
    with pytest.raises(ValueError, match=r"policies\['a'\]: expected at least one policy, got none"):
        mrl.plot_cascade(values, labels, {"a": [], "b": POLICY})
    with pytest.raises(TypeError, match=r"policies\['a'\]: expected an mrl.CascadePolicy or several, got float"):
        mrl.plot_cascade(values, labels, {"a": 0.5})
    with pytest.raises(TypeError, match="policies: expected names to policies, got CascadePolicy"):
        mrl.plot_cascade(values, labels, POLICY)
    with pytest.raises(ValueError, match=r"logits: expected shape \(G, \.\.\., C\) with at least one level"):
        mrl.fit_temperatures(make(np.zeros((0, 3, 2))), labels)
