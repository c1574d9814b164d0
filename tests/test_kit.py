"""The conformance kit itself: it passes what is right, and finds out what is wrong, with a readable example."""

import re
from dataclasses import replace

import numpy as np
import pytest

import mrl
import mrl.testing
from mrl.heads import head_leaves
from mrl.testing import bounds
from mrl.testing.drivers import Result, ValueDriver
from mrl.testing.mutants import Mutant
from mrl.testing.problems import UNIT_ROUNDOFF, Layout, Problem, head_from, round_to
from mrl.testing.runners import compare, prove


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounding_is_to_nearest(dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    rounded = round_to(values, dtype)
    assert np.all(np.abs(rounded - values) <= UNIT_ROUNDOFF[dtype] * np.abs(values))
    np.testing.assert_array_equal(round_to(rounded, dtype), rounded)
    assert round_to(1 + UNIT_ROUNDOFF[dtype], dtype) == 1  # halfway: to even


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_come_apart_and_together(tied: bool, bias: bool) -> None:
    nesting = mrl.Nesting((2, 4))
    head = mrl.init_head(nesting, 3, tied=tied, backend="numpy", seed=0)
    head = head if bias else type(head)(head[0])
    again = head_from(Layout(nesting, tied=tied, bias=bias), head_leaves(head))
    for a, b in zip(head_leaves(head), head_leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(again) is type(head)


def test_compare_is_strict_about_nan_shape_and_infinity() -> None:
    expected = {"total": (np.array([1.0, np.nan]), np.array([0.5, 0.5]))}

    def share(*values: float) -> float:
        return compare(expected, Result([np.array(values)], None, [], []))[0]

    assert share(1.25, np.nan) == 0.5
    assert share(1.0, 2.0) == np.inf and share(np.nan, np.nan) == np.inf and share(np.inf, np.nan) == np.inf
    assert compare(expected, Result([np.array(1.0)], None, [], []))[0] == np.inf


def test_a_surviving_mutant_fails_the_proof() -> None:
    case = mrl.testing.CASES[3]
    harmless = Mutant("changes nothing")
    with pytest.raises(AssertionError, match=r"these mutants broke no bound .* changes nothing"):
        prove(
            mrl.testing.Case(**{**vars(case), "mutants": (harmless,)}),
            ValueDriver("numpy"),
            "eager",
            "float32",
            examples=5,
        )


def test_a_wrong_dtype_fails_the_proof() -> None:
    case = mrl.testing.CASES[3]

    def function(layout: Layout):
        run = case.function(layout)
        return lambda arrays, constants: [x.astype(np.float64) for x in run(arrays, constants)]

    with pytest.raises(AssertionError, match=r"expected outputs in float32 .* got \['float64'\]"):
        prove(
            mrl.testing.Case(**{**vars(case), "function": function}),
            ValueDriver("numpy"),
            "eager",
            "float32",
            examples=5,
        )


def test_a_missing_output_fails_the_proof() -> None:
    case = mrl.testing.CASES[4]

    def function(layout: Layout):
        run = case.function(layout)
        return lambda arrays, constants: run(arrays, constants)[:1]

    with pytest.raises(AssertionError, match=r"expected the outputs \['total', 'per_level'\], got 1 of them"):
        prove(replace(case, function=function), ValueDriver("numpy"), "eager", "float32", examples=5)


@pytest.mark.parametrize("argument", ["ops", "dtypes", "modes"])
def test_a_proof_of_nothing_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected at least one of"):
        mrl.testing.check_backend("numpy", **{argument: []})


@pytest.mark.parametrize(("argument", "value"), [("ops", "softmax"), ("dtypes", "float8"), ("modes", "lazy")])
def test_unknown_names_are_refused(argument: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected names of .* got '{value}'"):
        mrl.testing.check_backend("numpy", **{argument: [value]})


def test_bounds_hold_for_another_order_of_summation() -> None:
    """The same sums in float32 from the last term to the first: a right answer by a different road."""
    rng = np.random.default_rng(3)
    layout = Layout(mrl.Nesting((3, 8)), (5,), classes=4)
    numbers = [round_to(rng.normal(size=shape), "float32") for shape in ((5, 8), (4, 8), (4,), (2, 5, 4))]
    z, weight, bias, upstream = numbers
    problem = Problem(layout, "float32", z, mrl.TiedHead(weight, bias), np.zeros(5, np.int64), upstream)
    value, bound = bounds.nested_logits(problem)["logits"]
    z32, weight32, bias32 = (x.astype(np.float32) for x in (z, weight, bias))
    for g, m in enumerate((3, 8)):
        total = np.broadcast_to(bias32, (5, 4)).copy()
        for k in reversed(range(m)):
            total += z32[:, k, None] * weight32[:, k]
        assert np.all(np.abs(total - value[g]) <= bound[g])
        assert np.any(total != value[g])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_gradient_of_logits_may_be_rounded_once_to_half_precision(dtype: str) -> None:
    """Of the sum over levels, scaled by the largest row factor: sixteen times as coarse, or unscaled, is too much."""
    nesting, rng = mrl.Nesting((3, 8, 20), (0.5, 1.0, 3.7)), np.random.default_rng(0)
    layout, labels = Layout(nesting, (200,), classes=30, reduction="none"), rng.integers(0, 30, 200)
    z, weight = (round_to(rng.normal(size=shape) * x, dtype) for shape, x in (((200, 20), 1 / 16), ((30, 20), 16)))
    bias, upstream = (round_to(rng.normal(size=size) * x, dtype) for size, x in ((30, 1), (200, 2**-14)))
    problem = Problem(layout, dtype, z, mrl.TiedHead(weight, bias), labels, upstream)
    expected = bounds.nested_cross_entropy(problem, scaled=True)
    r = []
    for m, w in zip(nesting.dims, nesting.weights, strict=True):
        p = np.exp(z[:, :m] @ weight[:, :m].T + bias)
        r.append(w * upstream[:, None] * (p / p.sum(-1, keepdims=True) - np.eye(30)[labels]))
    rho = np.abs(upstream).max() * max(nesting.weights)

    def shares(narrow) -> float:
        dz, dweight, blocks = np.empty_like(z), np.empty_like(weight), (slice(3), slice(3, 8), slice(8, 20))
        for g, block in enumerate(blocks):
            s = narrow(sum(r[g:]))
            dz[:, block], dweight[:, block] = s @ weight[:, block], s.T @ z[:, block]
        gradients = [round_to(x, dtype) for x in (dz, dweight, sum(r).sum(0))]
        found = Result([], gradients, [], [])
        return compare({name: x for name, x in expected.items() if name.startswith("d")}, found)[0]

    def coarse(s):
        step = 2.0 ** np.ceil(np.log2(np.abs(s))) * 16 * UNIT_ROUNDOFF[dtype]
        return step * np.round(s / step)

    assert shares(lambda s: rho * round_to(s / rho, dtype)) < 1 < shares(coarse)
    if dtype == "float16":
        assert shares(lambda s: round_to(s, dtype)) > 1


CASCADES = {case.name: case for case in mrl.testing.CASES if case.name.startswith("cascade")}


@pytest.mark.parametrize("name", CASCADES)
def test_a_wrong_cascade_fails_the_proof(name: str) -> None:
    """The mistake is in the implementation itself: it answers one level late."""
    case = CASCADES[name]

    def function(layout: Layout):
        run = case.function(layout)

        def late(arrays, constants):
            labels, level, confidence = run(arrays, constants)
            return labels, np.minimum(level + 1, len(layout.nesting) - 1), confidence

        return late

    with pytest.raises(AssertionError, match=rf"{re.escape(name)} on numpy .*: level is inf times its error bound"):
        prove(replace(case, function=function), ValueDriver("numpy"), "eager", "float32", examples=24)


def test_answers_that_are_not_integers_fail_the_proof() -> None:
    case = CASCADES["cascade_exit"]

    def function(layout: Layout):
        run = case.function(layout)
        return lambda arrays, constants: [x.astype(np.float32) for x in run(arrays, constants)]

    with pytest.raises(
        AssertionError, match=r"expected \('labels', 'level'\) as integers, got \['float32', 'float32'\]"
    ):
        prove(replace(case, function=function), ValueDriver("numpy"), "eager", "float32", examples=5)


def test_a_proof_that_decides_too_little_fails() -> None:
    case = CASCADES["cascade_predict"]

    def vague(problem: Problem):
        return {name: (value, np.full(value.shape, np.inf)) for name, (value, _) in case.expected(problem).items()}

    with pytest.raises(AssertionError, match=r"100\.0% of the answers are undecided by the bounds, more than 1%"):
        prove(replace(case, expected=vague, mutants=()), ValueDriver("numpy"), "eager", "float32", examples=5)


def test_hardly_an_answer_of_a_cascade_is_undecided(random_seed: int | None) -> None:
    rows = mrl.testing.check_backend("numpy", ops=list(CASCADES), examples=60, random_seed=random_seed)
    assert all(row.undecided <= 0.01 for row in rows) and sum(row.undecided for row in rows) / len(rows) < 0.002


LOSS = next(case for case in mrl.testing.CASES if case.name == "nested_cross_entropy")


def planted(fault):
    """The loss with a fault, which is given the layout, the arrays, the labels and the outputs."""

    def function(layout: Layout):
        run = LOSS.function(layout)

        def wrong(arrays, constants):
            total, level = run(arrays, constants)
            return fault(layout, arrays, constants[0], total), level

        return wrong

    return replace(LOSS, function=function, mutants=())


def rows_counted_in_bfloat16(layout, arrays, labels, total):
    rows = int((labels != layout.ignore_index).sum()) if layout.ignore_index is not None else layout.rows
    counts = layout.reduction == "mean" and not layout.weighted and not layout.soft and rows
    return (total * (rows / round_to(rows, "bfloat16"))).astype(total.dtype) if counts else total


FAULTS = {
    "rows counted in bfloat16": rows_counted_in_bfloat16,
    "weight ignored of one level": lambda layout, arrays, labels, total: (
        total / np.float32(layout.nesting.weights[0]) if len(layout.nesting) == 1 else total
    ),
    "twice past 300 rows": lambda layout, arrays, labels, total: 2 * total if layout.rows > 300 else total,
    "five levels": lambda layout, arrays, labels, total: 2 * total if len(layout.nesting) > 4 else total,
    "two rows": lambda layout, arrays, labels, total: 2 * total if layout.rows == 2 else total,
    "as many classes as features": lambda layout, arrays, labels, total: (
        2 * total if layout.classes == layout.features else total
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_corner_is_found(name: str) -> None:
    with pytest.raises(AssertionError, match="times its error bound"):
        prove(planted(FAULTS[name]), ValueDriver("numpy"), "eager", "float32", examples=200, random_seed=0)


def test_labels_compared_in_bfloat16_are_found() -> None:
    def constants(problem: Problem):
        labels, *rest = LOSS.constants(problem)
        return [labels if problem.layout.soft else round_to(labels, "bfloat16").astype(np.int64), *rest]

    case = replace(LOSS, constants=constants, mutants=())
    with pytest.raises(AssertionError, match="times its error bound"):
        prove(case, ValueDriver("numpy"), "eager", "float32", examples=200, random_seed=0)


def test_a_wrong_gradient_of_a_linear_probe_is_found(backend_torch: None) -> None:
    """Of the head, only where the embeddings are frozen: the value is right."""
    from mrl.testing.drivers import TorchDriver

    def fault(layout, arrays, labels, total):
        return total if arrays[0].requires_grad else 2 * total - total.detach()

    with pytest.raises(AssertionError, match="dhead"):
        prove(planted(fault), TorchDriver(), "eager", "float32", examples=100, random_seed=0)
