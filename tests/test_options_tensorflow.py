"""Weights, soft targets and smoothing of TensorFlow's loss, eager, in a graph of an unknown batch, and under XLA."""

import math

import numpy as np
import pytest
from transform_cases import CLOSE, FUSED, HEAD, LABELS, NESTING, RNG, Z

import mrl
from mrl import spec

MODES = pytest.mark.parametrize("jit_compile", [None, False, True])
SAMPLES = np.array([0.5, 0.0, 2.0, 1.25], np.float32)
CLASSES = np.array([1.0, 0.0, 0.75], np.float32)
LEVELS = np.array([0.0, 3.0, 0.5], np.float32)
SOFT = np.array([[0.2, 0.0, 0.5], [1, 0, 0], [0, 0.6, 0.6], [0, 0, 0]], np.float32)
PART = mrl.Nesting(NESTING.dims, weights=(0.0, 0.5, 0.0))
UNTIED = mrl.NestedHead(
    tuple(RNG.normal(size=(3, m)).astype(np.float32) for m in NESTING.dims),
    tuple(RNG.normal(size=3).astype(np.float32) for _ in NESTING.dims),
)
EXCLUDING = mrl.TiedHead(HEAD.weight, np.array([0.5, -np.inf, 0.0], np.float32))

CASES = {
    "soft": (HEAD, SOFT, NESTING, {"sample_weight": SAMPLES, "level_weights": LEVELS, "label_smoothing": 0.25}),
    "hard": (HEAD, LABELS, NESTING, {"sample_weight": SAMPLES, "class_weight": CLASSES, "ignore_index": 2}),
    "smooth": (UNTIED, LABELS, PART, {"class_weight": CLASSES, "label_smoothing": 0.25, "reduction": "none"}),
    "part": (HEAD, LABELS, PART, {"level_weights": LEVELS, "reduction": "sum"}),
    "nothing counts": (HEAD, LABELS, NESTING, {"sample_weight": 0 * SAMPLES}),
    "excluded": (EXCLUDING, LABELS * 0, NESTING, {"label_smoothing": 1.0}),
    "excluded, of no weight": (EXCLUDING, SOFT, NESTING, {"class_weight": CLASSES, "label_smoothing": 1.0}),
}


@pytest.fixture(autouse=True)
def _tensorflow(backend_tensorflow):
    pass


def outcome(z, head, labels, nesting, options, *, fused, jit_compile, chunk_rows=3):
    """Total, losses per level and all gradients, by one function of whatever has a batch."""
    import tensorflow as tf

    arrays = {key: tf.constant(value) for key, value in options.items() if isinstance(value, np.ndarray)}
    rest = {key: value for key, value in options.items() if key not in arrays}
    head = tf.nest.map_structure(tf.constant, head)
    batched = [tf.constant(z), tf.constant(labels), *([arrays["sample_weight"]] if "sample_weight" in arrays else [])]

    def run(z, labels, *samples):
        given = arrays | ({"sample_weight": samples[0]} if samples else {})
        with tf.GradientTape() as tape:
            tape.watch((z, head))
            total, per_level = mrl.nested_cross_entropy(
                z, head, labels, nesting, fused=fused, chunk_rows=chunk_rows, **given, **rest
            )
        return total, per_level, *tf.nest.flatten(tape.gradient(total, (z, head)))

    if jit_compile is not None:
        signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in batched]
        run = tf.function(run, jit_compile=jit_compile, input_signature=signature)
    return run(*batched)


@FUSED
@MODES
@pytest.mark.parametrize("case", list(CASES))
def test_options(case, jit_compile, fused):
    head, labels, nesting, options = CASES[case]
    found = outcome(Z, head, labels, nesting, options, fused=fused, jit_compile=jit_compile)
    total, per_level = spec.nested_cross_entropy(Z, head, labels, nesting, **options)
    dz, dhead = spec.nested_cross_entropy_vjp(Z, head, labels, nesting, np.ones_like(total), **options)
    leaves = dhead if isinstance(dhead, mrl.TiedHead) else (*dhead.weights, *dhead.biases)
    for value, expected in zip(found, (total, per_level, dz, *leaves), strict=True):
        np.testing.assert_allclose(value, expected, **CLOSE)
    assert case != "excluded" or np.isposinf(found[0])


@FUSED
@pytest.mark.parametrize("chunk_rows", [1, 4, None])
def test_soft_labels_in_any_chunk(chunk_rows, fused):
    """A label that is a row of zeros and a one is the label of the one."""
    import tensorflow as tf

    options = {"sample_weight": SAMPLES, "class_weight": CLASSES, "reduction": "sum"}
    rest = {"fused": fused, "jit_compile": None, "chunk_rows": chunk_rows}
    rows = tf.one_hot(LABELS, 3, dtype=tf.float16).numpy()
    soft = outcome(Z, HEAD, rows, NESTING, options, **rest)
    for x, y in zip(soft, outcome(Z, HEAD, LABELS, NESTING, options, **rest), strict=True):
        np.testing.assert_allclose(x, y, **CLOSE)


@FUSED
@pytest.mark.parametrize("jit_compile", [False, True])
def test_new_values_of_weights_trace_nothing_new(jit_compile, fused):
    import tensorflow as tf

    traced = []

    @tf.function(jit_compile=jit_compile)
    def run(z, levels):
        traced.append(levels)
        head = mrl.TiedHead(*map(tf.constant, HEAD))
        return mrl.nested_cross_entropy(z, head, tf.constant(LABELS), NESTING, level_weights=levels, fused=fused).total

    for levels in (np.ones(3), LEVELS, 0 * LEVELS, [1e3, 0.0, 1e-3]):
        expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, level_weights=levels).total
        np.testing.assert_allclose(run(tf.constant(Z), tf.constant(levels, tf.float32)), expected, **CLOSE)
    assert len(traced) == 1


@FUSED
def test_a_level_of_no_weight_is_no_work(fused):
    """One product of the columns below it, and of those above it none; its loss may be infinite, too."""
    import tensorflow as tf

    weight = np.concatenate([HEAD.weight[:, :3], np.full((3, 3), np.nan, np.float32)], 1)
    biases = (np.full(3, np.nan, np.float32), UNTIED.biases[1], np.full(3, np.nan, np.float32))
    for head, tied in ((mrl.TiedHead(weight, HEAD.bias), True), (mrl.NestedHead(UNTIED.weights, biases), False)):
        total, per_level, dz, *leaves = outcome(Z, head, LABELS, PART, {}, fused=fused, jit_compile=None)
        expected = spec.nested_cross_entropy(Z, head, LABELS, PART)
        np.testing.assert_allclose(total, expected.total, **CLOSE)
        np.testing.assert_array_equal(np.isnan(per_level), [True, False, True])
        assert not np.any(dz[:, 3:])
        unused = [leaves[0][:, 3:]] if tied else [leaves[i] for i in (0, 2, 3, 5)]
        assert all(x is not None and not np.any(x) for x in unused)

    @tf.function
    def run(z):
        return mrl.nested_cross_entropy(z, mrl.TiedHead(tf.constant(weight)), tf.constant(LABELS), PART, fused=fused)

    graph = run.get_concrete_function(tf.TensorSpec([4, 6])).graph
    products = [op.inputs[0].shape for op in graph.get_operations() if op.type == "MatMul"]
    assert products == [(4, 3)]


@FUSED
@pytest.mark.parametrize("weight", [-1.0, np.nan])
@pytest.mark.parametrize("name", ["sample_weight", "class_weight", "level_weights"])
def test_traced_weights_that_are_none_give_nan(name, weight, fused):
    import tensorflow as tf

    values = {"sample_weight": SAMPLES, "class_weight": CLASSES, "level_weights": LEVELS}[name]
    run = tf.function(
        lambda values: (
            mrl.nested_cross_entropy(
                tf.constant(Z), mrl.TiedHead(*HEAD), tf.constant(LABELS), NESTING, fused=fused, **{name: values}
            ).total
        )
    )
    assert np.isfinite(run(tf.constant(values)))
    assert np.isnan(run(tf.constant(np.where(np.arange(len(values)) == 2, np.float32(weight), values))))


@FUSED
def test_ignored_rows_may_have_any_weight(fused):
    ignored = np.array([1, 9, 1, 1], np.int32), np.array([1.0, np.nan, 2.0, 0.5], np.float32)
    z = Z.copy()
    z[1] = np.nan
    options = {"sample_weight": ignored[1], "ignore_index": 9}
    found = outcome(z, HEAD, ignored[0], NESTING, options, fused=fused, jit_compile=False)
    keep = np.array([0, 2, 3])
    expected = spec.nested_cross_entropy(Z[keep], HEAD, ignored[0][keep], NESTING, sample_weight=ignored[1][keep])
    np.testing.assert_allclose(found[0], expected.total, **CLOSE)
    assert not np.any(found[2][1])


@FUSED
@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("size", [1e38, 1e-36])
def test_a_mean_of_weights_of_any_size(size, jit_compile, fused):
    """Their sum overflows, or its reciprocal under XLA would vanish."""
    options = {"sample_weight": SAMPLES * np.float32(size), "class_weight": CLASSES * np.float32(size)}
    if size < 1:
        del options["class_weight"]
    expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, **options).total
    found = outcome(Z, HEAD, LABELS, NESTING, options, fused=fused, jit_compile=jit_compile)
    np.testing.assert_allclose(found[0], expected, **CLOSE)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("odd", ["labels", "sample_weight"])
def test_shapes_that_turn_out_not_to_fit(odd, jit_compile):
    import tensorflow as tf

    run = tf.function(
        lambda z, y, w: mrl.nested_cross_entropy(z, mrl.TiedHead(*HEAD), y, NESTING, sample_weight=w).total,
        input_signature=[tf.TensorSpec([None, 6]), tf.TensorSpec([None, 3]), tf.TensorSpec([None])],
        jit_compile=jit_compile,
    )
    given = {"labels": SOFT, "sample_weight": SAMPLES}
    assert np.isfinite(run(Z, *given.values()))
    given[odd] = given[odd][:1]
    message = ".*" if jit_compile else f"{odd}: expected the leading shape of z"
    with pytest.raises((tf.errors.InvalidArgumentError, AssertionError), match=message):
        assert np.isfinite(run(Z, *given.values()))


@MODES
def test_accuracy(jit_compile):
    import tensorflow as tf

    logits = RNG.normal(size=(2, 5, 4)).round(1).astype(np.float32)
    logits[0, 0], logits[1, 1], logits[1, 2, 3] = 0.0, [1, 1, 0, 1], math.nan
    labels = np.array([1, 3, 0, -7, 2], np.int32)
    expected = spec.nested_accuracy(logits, labels, topk=(1, 2, 4), ignore_index=-7)

    def run(logits, labels):
        return mrl.nested_accuracy(logits, labels, (1, 2, 4), ignore_index=-7)

    if jit_compile is not None:
        signature = [tf.TensorSpec([2, None, 4]), tf.TensorSpec([None], tf.int32)]
        run = tf.function(run, jit_compile=jit_compile, input_signature=signature)
    np.testing.assert_allclose(run(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-7)
    np.testing.assert_array_equal(run(tf.constant(logits[:, :0]), tf.constant(labels[:0])), np.zeros((2, 3)))
    whole = np.eye(4, dtype=np.float32)[[0, 1, 2]]
    np.testing.assert_array_equal(run(tf.constant([whole, whole]), tf.constant([0, 1, 2])), np.ones((2, 3)))
    if jit_compile is not None:
        assert np.isnan(run(tf.constant(logits), tf.constant(labels + 1))).all()
