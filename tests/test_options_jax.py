"""The options of the loss in JAX: what is compiled, what is left out, and the strict settings of its users."""

import numpy as np
import pytest
from transform_cases import CLOSE, HEAD, LABELS, NESTING, Z

import mrl
from mrl import spec

RNG = np.random.default_rng(5)
SOFT = RNG.random((4, 3)).astype(np.float32)
OPTIONS = {
    "plain": (LABELS, {}),
    "ignored": (LABELS, {"ignore_index": 2, "label_smoothing": 0.1}),
    "weights": (
        LABELS,
        {
            "sample_weight": np.array([1, 0, 2, 0.5], np.float32),
            "class_weight": np.array([1, 2, 0.5], np.float32),
            "level_weights": np.array([0.5, 0, 2], np.float32),
        },
    ),
    "dense": (LABELS, {"class_weight": np.array([0, 2, 0.5], np.float32), "label_smoothing": 0.2}),
    "soft": (SOFT, {"class_weight": np.array([1, 2, 0.5], np.float32), "label_smoothing": 0.2}),
}
FORMS = pytest.mark.parametrize("form", [{"fused": False}, {}, {"chunk_rows": 3}], ids=["composed", "fused", "chunks"])


@pytest.fixture(autouse=True)
def _jax(backend_jax: None) -> None:
    pass


@FORMS
@pytest.mark.parametrize("name", OPTIONS)
def test_strict_settings(name: str, form: dict) -> None:
    import jax

    labels, options = OPTIONS[name]
    z, head, given, arrays = mrl.convert((Z, HEAD, labels, options), "jax")

    def total(z, head):
        return mrl.nested_cross_entropy(z, head, given, NESTING, **arrays, **form).total

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        value, (dz, dhead) = jax.value_and_grad(total, argnums=(0, 1))(z, head)
    exact, dexact = spec.nested_cross_entropy_vjp(Z, HEAD, labels, NESTING, np.ones(()), **options)
    np.testing.assert_allclose(value, spec.nested_cross_entropy(Z, HEAD, labels, NESTING, **options).total, **CLOSE)
    for found, wanted in zip((dz, *dhead), (exact, *dexact), strict=True):
        np.testing.assert_allclose(found, wanted, **CLOSE)


def test_strict_ranks_everywhere_else() -> None:
    import jax

    policy = mrl.CascadePolicy((0.5, 0.5), NESTING.dims)
    z, head, labels = mrl.convert((Z, HEAD, LABELS), "jax")
    with jax.numpy_rank_promotion("raise"):
        logits = mrl.nested_logits(z, head, NESTING)
        jax.grad(lambda z: mrl.nested(lambda x: x.sum(), NESTING, normalize=True)(z))(z)
        mrl.nested_accuracy(logits, labels, (1, 2), ignore_index=1)
        for kind in ("probability", "margin", "entropy"):
            each = mrl.CascadePolicy((0.5, 0.5), NESTING.dims, confidence=kind, temperatures=(1.0, 2.0, 1.0))
            mrl.cascade_exit(jax.nn.softmax(logits), each, logits=False)
            mrl.cascade_exit(logits, each, logits=True)
        mrl.cascade_predict(z, head, policy)


@pytest.mark.parametrize("fused", [True, False])
def test_annealed_weights_compile_once(fused: bool) -> None:
    import jax
    import jax.numpy as jnp

    z, head, labels = mrl.convert((Z, HEAD, LABELS), "jax")
    traces = []

    @jax.jit
    def gradient(z, level_weights):
        traces.append(None)

        def loss(z):
            return mrl.nested_cross_entropy(z, head, labels, NESTING, level_weights=level_weights, fused=fused).total

        return jax.grad(loss)(z)

    for weights in ((1.0, 1.0, 1.0), (0.0, 0.5, 2.0), (0.0, 0.0, 0.0)):
        options = {"level_weights": np.array(weights)}
        expected, _ = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, np.ones(()), **options)
        np.testing.assert_allclose(gradient(z, jnp.asarray(weights)), expected, **CLOSE)
    assert len(traces) == 1


@pytest.mark.parametrize("untied", [True, False])
def test_a_level_of_weight_zero_is_left_out_of_the_work(untied: bool) -> None:
    import jax

    full, part = mrl.Nesting((2, 3, 5), (1.0, 0.0, 2.0)), mrl.Nesting((2, 5), (1.0, 2.0))
    head = mrl.NestedHead(tuple(HEAD.weight[:, :m] for m in full.dims)) if untied else mrl.TiedHead(HEAD.weight)
    less = mrl.NestedHead((head.weights[0], head.weights[2])) if untied else head
    z, head, less, labels = mrl.convert((Z, head, less, LABELS), "jax")

    def jaxpr(head, nesting, **form):
        def loss(z, head):
            return mrl.nested_cross_entropy(z, head, labels, nesting, **form).total

        return str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(z, head))

    for form in ({}, {"chunk_rows": 3}, {"fused": False}):
        for operation in ("dot_general", " exp "):
            assert jaxpr(head, full, **form).count(operation) == jaxpr(less, part, **form).count(operation) > 0
    assert np.isnan(mrl.nested_cross_entropy(z, head, labels, full).per_level[1])


@FORMS
def test_all_smoothing_beside_an_excluded_class_is_infinite(form: dict) -> None:
    z, labels = mrl.convert((Z, LABELS), "jax")
    head = mrl.convert(mrl.TiedHead(HEAD.weight, np.array([0, -np.inf, 1], np.float32)), "jax")
    for smoothing in (0.5, 1.0):
        assert mrl.nested_cross_entropy(z, head, labels, NESTING, label_smoothing=smoothing, **form).total == np.inf


@FORMS
def test_weights_that_nobody_could_see(form: dict) -> None:
    import jax
    import jax.numpy as jnp

    z, head, labels = mrl.convert((Z, HEAD, LABELS), "jax")
    for name, size in (("sample_weight", 4), ("class_weight", 3), ("level_weights", 3)):

        @jax.jit
        def total(weights, name=name):
            return mrl.nested_cross_entropy(z, head, labels, NESTING, **{name: weights}, **form).total

        for wrong in (-1.0, np.nan):
            assert np.isnan(total(jnp.ones(size).at[1].set(wrong)))
        assert np.isfinite(total(jnp.ones(size)))


@pytest.mark.parametrize("scale", [3e38, 1e-36])
def test_a_mean_by_weights_that_have_no_reciprocal(scale: float) -> None:
    z, head, labels = mrl.convert((Z, HEAD, LABELS), "jax")
    weights = np.array([1, 0.5, 0.25, 1], np.float32)
    expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, sample_weight=weights)
    found = mrl.nested_cross_entropy(z, head, labels, NESTING, sample_weight=weights * np.float32(scale))
    np.testing.assert_allclose(found.total, expected.total, **CLOSE)


def test_accuracy_is_that_of_the_specification() -> None:
    import jax
    import jax.numpy as jnp

    logits = RNG.integers(0, 3, (2, 3, 40, 5)).astype(np.float32)  # with many ties
    logits[0, 0, 0], logits[1, 2, 3] = np.nan, -np.inf
    labels = RNG.integers(0, 5, (3, 40)).astype(np.int8)
    for ignore in (None, 2):
        options = {"topk": (1, 2, 5, 9), "ignore_index": ignore}
        expected = spec.nested_accuracy(logits, labels, **options)
        run = jax.jit(lambda s, y, options=options: mrl.nested_accuracy(s, y, **options))
        np.testing.assert_allclose(run(jnp.asarray(logits), jnp.asarray(labels)), expected, rtol=1e-6)
        assert np.isnan(run(jnp.asarray(logits), jnp.asarray(labels).at[0, 0].set(7))).all()
    assert run(jnp.asarray(logits, jnp.bfloat16), jnp.full((3, 40), 2)).tolist() == [[0.0] * 4] * 2
