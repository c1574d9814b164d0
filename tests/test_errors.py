"""Every bad input in every backend: the right exception, naming the argument and what to do."""

import math

import numpy as np
import pytest

import mrl
from mrl.dispatch import backend_named

NESTING = mrl.Nesting((2, 4))


@pytest.mark.parametrize(
    ("dims", "weights", "error", "message"),
    [
        ((), None, ValueError, r"dims: expected at least one"),
        ((4, 2), None, ValueError, r"dims\[1\] = 2 after 4"),
        ((2, 2), None, ValueError, r"strictly increasing"),
        ((0, 2), None, ValueError, r"dims\[0\]: expected a positive"),
        ((-1,), None, ValueError, r"dims\[0\]: expected a positive"),
        ((2.0, 4), None, TypeError, r"dims\[0\]: expected an integer"),
        (("2", 4), None, TypeError, r"dims\[0\]: expected an integer"),
        ((True, 4), None, TypeError, r"dims\[0\]: expected an integer"),
        ((None,), None, TypeError, r"dims\[0\]: expected an integer"),
        ("24", None, TypeError, r"dims: expected a sequence"),
        (8, None, TypeError, r"dims: expected a sequence"),
        ((2, 4), (1.0,), ValueError, r"weights: expected one per granularity \(2\), got 1"),
        ((2, 4), (1.0, -1.0), ValueError, r"weights\[1\]: expected a finite non-negative"),
        ((2, 4), (1.0, math.nan), ValueError, r"weights\[1\]"),
        ((2, 4), (math.inf, 1.0), ValueError, r"weights\[0\]"),
        ((2, 4), ("1", 1.0), TypeError, r"weights\[0\]: expected a number"),
        ((2, 4), 1.0, TypeError, r"weights: expected one number per granularity"),
        ((2, 4), np.ones((2, 2)), TypeError, r"weights\[0\]: expected a number"),
        ((2, 4), {2: 1.0, 4: 0.5}, TypeError, r"weights: expected one number per granularity"),
        ({2, 4}, None, TypeError, r"dims: expected a sequence"),
    ],
)
def test_nesting_refuses(dims, weights, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.Nesting(dims, weights)


def test_doubling_must_meet_the_largest() -> None:
    with pytest.raises(ValueError, match="largest: expected 8 times a power of two, got 20"):
        mrl.Nesting.doubling(8, 20)


@pytest.fixture
def make(backend_name: str):
    backend = backend_named(backend_name)

    def array(values, dtype="float32"):
        return backend.from_numpy(np.asarray(values, dtype), dtype=dtype, device=None)

    return array


def zeros(make, *shape, dtype="float32"):
    return make(np.zeros(shape), dtype)


BAD_CALLS = [
    (
        "labels out of range",
        {"labels": [0, 3, 1]},
        ValueError,
        r"labels: expected values in \[0, 3\), got 3 at position 1",
    ),
    ("negative label", {"labels": [0, 1, -1]}, ValueError, r"labels: .* got -1 at position 2"),
    (
        "another label than the ignored",
        {"labels": [-100, 1, -1], "ignore_index": -100},
        ValueError,
        r"got -1 at position 2",
    ),
    ("too few labels", {"labels": [0, 1]}, ValueError, r"labels: expected shape \(3,\)"),
    ("labels of another rank", {"labels": [[0, 1, 2]]}, ValueError, r"labels: expected shape \(3,\)"),
    ("float labels", {"labels_dtype": "float32"}, TypeError, r"labels: expected an integer dtype, got float32"),
    ("bool labels", {"labels_dtype": "bool"}, TypeError, r"labels: expected an integer dtype, got bool"),
    ("a narrow z", {"z": (3, 3)}, ValueError, r"z: expected shape \(\.\.\., D\) with D at least 4, got \(3, 3\)"),
    ("a scalar z", {"z": ()}, ValueError, r"z: expected shape"),
    ("an integer z", {"z_dtype": "int32"}, TypeError, r"z: expected a dtype of .*float32.*, got int32"),
    (
        "a narrow weight",
        {"weight": (3, 3)},
        ValueError,
        r"head\.weight: expected shape \(C, D\) with D = 4, the last axis of z",
    ),
    ("a wide weight", {"weight": (3, 9)}, ValueError, r"head\.weight: .* got \(3, 9\); slice the weight"),
    ("a kernel", {"weight": (4, 10)}, ValueError, r"head\.weight: .* got \(4, 10\); transpose it"),
    ("a flat weight", {"weight": (4,)}, ValueError, r"head\.weight: expected shape \(C, D\)"),
    ("no class", {"weight": (0, 4), "bias": (0,)}, ValueError, r"head\.weight: expected at least one class"),
    ("an integer weight", {"weight_dtype": "int32"}, TypeError, r"head\.weight: expected a dtype of"),
    ("a short bias", {"bias": (2,)}, ValueError, r"head\.bias: expected shape \(3,\), got \(2,\)"),
    ("a bias of another rank", {"bias": (3, 1)}, ValueError, r"head\.bias: expected shape \(3,\)"),
    ("unknown reduction", {"reduction": "avg"}, ValueError, r"reduction: expected one of .*mean.*, got 'avg'"),
    ("smoothing above one", {"label_smoothing": 1.1}, ValueError, r"label_smoothing: expected a number in \[0, 1\]"),
    ("negative smoothing", {"label_smoothing": -0.1}, ValueError, r"label_smoothing"),
    ("NaN smoothing", {"label_smoothing": math.nan}, ValueError, r"label_smoothing"),
    ("smoothing as text", {"label_smoothing": "0.1"}, TypeError, r"label_smoothing: expected a number"),
    ("a float ignore_index", {"ignore_index": 1.0}, TypeError, r"ignore_index: expected an integer"),
    ("a bool ignore_index", {"ignore_index": True}, TypeError, r"ignore_index: expected an integer"),
    ("fused as text", {"fused": "yes"}, TypeError, r"fused: expected True or False"),
    ("few probabilities", {"labels": [[0.5, 0.5]] * 3, "labels_dtype": "float32"}, ValueError, r"labels: .*\(3, 3\)"),
    (
        "ignored probabilities",
        {"labels": [[0.5, 0.5, 0.0]] * 3, "labels_dtype": "float32", "ignore_index": -100},
        ValueError,
        r"ignore_index: expected None beside labels that are probabilities",
    ),
    ("integer weights", {"sample_weight": ([1, 1, 1], "int32")}, TypeError, r"sample_weight: expected a dtype of"),
    (
        "few weights",
        {"sample_weight": ([1, 1], "float32")},
        ValueError,
        r"sample_weight: expected shape \(3,\), got \(2,\)",
    ),
    (
        "a negative weight",
        {"sample_weight": ([1, -1, 1], "float32")},
        ValueError,
        r"sample_weight: expected finite numbers that are not negative, got -1.0 at position 1",
    ),
    (
        "a NaN weight",
        {"class_weight": ([1, 1, math.nan], "float32")},
        ValueError,
        r"class_weight: .* got nan at position 2",
    ),
    ("few class weights", {"class_weight": ([1, 1], "float32")}, ValueError, r"class_weight: expected shape \(3,\)"),
    ("few level weights", {"level_weights": ([1], "float32")}, ValueError, r"level_weights: expected shape \(2,\)"),
    ("an endless weight", {"level_weights": ([1, math.inf], "float32")}, ValueError, r"level_weights: .* got inf"),
    ("no chunk", {"chunk_rows": 0}, ValueError, r"chunk_rows: expected an integer of at least 1, got 0"),
    ("a float chunk", {"chunk_rows": 2.5}, TypeError, r"chunk_rows: expected an integer"),
    ("dims for a nesting", {"nesting": (2, 4)}, TypeError, r"nesting: expected an mrl\.Nesting"),
    ("an array for a head", {"head": "array"}, TypeError, r"head: expected an mrl\.TiedHead or mrl\.NestedHead"),
    ("z as a list", {"z": "list"}, TypeError, r"z: expected an array of one of .* got list"),
    ("labels as a list", {"labels": "list"}, TypeError, r"labels: expected an array of one of .* got list"),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD_CALLS], ids=[b[0] for b in BAD_CALLS])
def test_nested_cross_entropy_refuses(make, fused: bool, change: dict, error: type, message: str) -> None:
    change = dict(change)
    z, labels = change.pop("z", (3, 4)), change.pop("labels", [0, 1, 2])
    z = [[0.0] * 4] * 3 if z == "list" else zeros(make, *z, dtype=change.pop("z_dtype", "float32"))
    labels = [0, 1, 2] if labels == "list" else make(labels, change.pop("labels_dtype", "int32"))
    weight = zeros(make, *change.pop("weight", (3, 4)), dtype=change.pop("weight_dtype", "float32"))
    head = mrl.TiedHead(weight, zeros(make, *change.pop("bias", (3,))))
    head = weight if change.pop("head", None) else head
    change = {name: make(*value) if name.endswith(("weight", "weights")) else value for name, value in change.items()}
    with pytest.raises(error, match=message):
        mrl.nested_cross_entropy(z, head, labels, change.pop("nesting", NESTING), **{"fused": fused, **change})


def test_the_weight_of_an_ignored_row_may_be_anything(make) -> None:
    z, head, labels = zeros(make, 3, 4), mrl.TiedHead(zeros(make, 3, 4)), make([0, -100, 2], "int32")
    weights = make([1.0, math.nan, 3.0], "float32")
    loss = mrl.nested_cross_entropy(z, head, labels, NESTING, ignore_index=-100, sample_weight=weights)
    assert float(loss.total) == pytest.approx(2 * math.log(3))


def test_a_label_out_of_range_is_found_in_any_shape(make, widest_bits: int) -> None:
    head = mrl.TiedHead(zeros(make, 3, 4))
    with pytest.raises(ValueError, match=r"got 9 at position \(1, 0\)"):
        mrl.nested_cross_entropy(zeros(make, 2, 2, 4), head, make([[0, 1], [9, 1]], f"int{widest_bits}"), NESTING)
    with pytest.raises(ValueError, match=r"got 9 at the only position"):
        mrl.nested_cross_entropy(zeros(make, 4), head, make(9, "int32"), NESTING)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_labels_of_any_integer_dtype(make, widest_bits: int, dtype: str) -> None:
    if 8 * np.dtype(dtype).itemsize > widest_bits:
        with pytest.raises(ValueError, match=r"dtype: expected one that JAX keeps, got int64"):
            make([2, 0], dtype)
        return
    head, labels = mrl.TiedHead(zeros(make, 3, 4)), make([2, 0], dtype)
    for ignore_index in (None, -100, 1000):
        loss = mrl.nested_cross_entropy(zeros(make, 2, 4), head, labels, NESTING, ignore_index=ignore_index)
        assert float(loss.total) == pytest.approx(2 * math.log(3), rel=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_more_classes_than_the_labels_could_name(make, dtype: str) -> None:
    head, labels = mrl.TiedHead(zeros(make, 40_000, 4)), make([2, 127], dtype)
    for fused in (True, False):
        loss = mrl.nested_cross_entropy(zeros(make, 2, 4), head, labels, NESTING, fused=fused)
        assert float(loss.total) == pytest.approx(2 * math.log(40_000), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0, np.int64(0), np.float32(0)])
def test_smoothing_of_any_number(make, smoothing) -> None:
    head, labels = mrl.TiedHead(zeros(make, 3, 4)), make([2, 0], "int32")
    loss = mrl.nested_cross_entropy(zeros(make, 2, 4), head, labels, NESTING, label_smoothing=smoothing)
    assert float(loss.total) == pytest.approx(2 * math.log(3), rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "biases", "error", "message"),
    [
        ([(3, 2)], None, ValueError, r"head\.weights: expected one array per granularity \(2\), got 1"),
        ([(3, 2), (3, 3)], None, ValueError, r"head\.weights\[1\]: expected shape \(3, 4\), got \(3, 3\)"),
        ([(3, 2), (2, 4)], None, ValueError, r"head\.weights\[1\]: expected shape \(3, 4\), got \(2, 4\)"),
        ([(3, 2), (3, 4)], [(3,)], ValueError, r"head\.biases: expected one array per granularity"),
        ([(3, 2), (3, 4)], [(3,), (2,)], ValueError, r"head\.biases\[1\]: expected shape \(3,\), got \(2,\)"),
    ],
)
def test_nested_head_must_fit(make, weights, biases, error, message) -> None:
    biases = None if biases is None else tuple(zeros(make, *shape) for shape in biases)
    head = mrl.NestedHead(tuple(zeros(make, *shape) for shape in weights), biases)
    with pytest.raises(error, match=message):
        mrl.nested_logits(zeros(make, 5, 4), head, NESTING)


def test_a_single_matrix_is_no_nested_head(make) -> None:
    with pytest.raises(TypeError, match=r"head\.weights: expected a tuple .* use mrl\.TiedHead"):
        mrl.nested_logits(zeros(make, 5, 4), mrl.NestedHead(zeros(make, 3, 4)), NESTING)


@pytest.mark.parametrize(
    ("dim", "normalize", "error", "message"),
    [
        (0, True, ValueError, r"dim: expected an integer of at least 1"),
        (5, True, ValueError, r"dim: expected an integer in \[1, 4\], the last axis of z, got 5"),
        (2.0, True, TypeError, r"dim: expected an integer"),
        (True, True, TypeError, r"dim: expected an integer"),
        (2, 1, TypeError, r"normalize: expected True or False"),
    ],
)
def test_truncate_refuses(make, dim, normalize, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.truncate(zeros(make, 3, 4), dim, normalize=normalize)


def test_nested_refuses(make) -> None:
    with pytest.raises(TypeError, match="loss: expected a function"):
        mrl.nested(3, NESTING)
    with pytest.raises(TypeError, match="normalize: expected True or False"):
        mrl.nested(abs, NESTING, normalize="yes")
    with pytest.raises(ValueError, match="z: expected shape"):
        mrl.nested(lambda z: z, NESTING)(zeros(make, 3, 3))
    for value in ((1.0, 2.0), {"loss": 1.0}, None):
        with pytest.raises(TypeError, match=r"loss: expected it to return a number or an array, got (tuple|dict|None)"):
            mrl.nested(lambda z, value=value: value, NESTING)(zeros(make, 3, 4))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_none_left_is_zero(make, fused: bool, reduction: str) -> None:
    head, labels = mrl.TiedHead(make(np.ones((3, 4)))), make([7, 7], "int32")
    z = make(np.full((2, 4), np.nan))
    loss = mrl.nested_cross_entropy(z, head, labels, NESTING, ignore_index=7, reduction=reduction, fused=fused)
    np.testing.assert_array_equal(np.asarray(loss.total), 0.0)
    empty = mrl.nested_cross_entropy(
        make(np.zeros((0, 4))), head, make([], "int32"), NESTING, reduction=reduction, fused=fused
    )
    np.testing.assert_array_equal(np.asarray(empty.total), np.zeros(() if reduction != "none" else (0,)))


@pytest.mark.parametrize("fused", [True, False])
def test_nan_inputs_propagate(make, fused: bool) -> None:
    z = np.zeros((2, 4))
    z[1, 3] = np.nan
    head, labels = mrl.TiedHead(make(np.ones((3, 4)))), make([0, 1], "int32")
    loss = mrl.nested_cross_entropy(make(z), head, labels, NESTING, fused=fused)
    assert np.isfinite(np.asarray(loss.per_level)[0]) and np.isnan(np.asarray(loss.per_level)[1])


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-13, 1e25])
def test_truncate_at_the_ends_of_the_range(make, scale: float) -> None:
    out = np.asarray(mrl.truncate(make([[3 * scale, 4 * scale, 1.0]]), 2))
    np.testing.assert_allclose(out, [[0.6, 0.8]] if scale == 1e25 else [[0.0, 0.0]], rtol=1e-6)
