"""``mrl.adapters.flax``: a module that holds a head and computes what the functions compute."""

import inspect

import numpy as np
import pytest
from adapter_flax_cases import CLASSES, CLOSE, KINDS, LABELS, NESTING, TIED, Z, assert_same, embeddings, made

import mrl
from mrl import spec
from mrl.heads import head_leaves


@pytest.fixture(autouse=True)
def _jax(backend_jax):
    """All of this needs JAX."""


@KINDS
def test_it_computes_what_the_functions_compute(tied, bias):
    from flax import nnx

    head, (z, y) = made(tied, bias), embeddings()
    host = mrl.convert(head.head, "numpy")
    assert type(host) is (mrl.TiedHead if tied else mrl.NestedHead)
    assert_same(head, host, rtol=0)
    options = {"label_smoothing": 0.1, "ignore_index": 1}
    expected = spec.nested_cross_entropy(Z, host, LABELS, NESTING, **options)
    dz, dhead = spec.nested_cross_entropy_vjp(Z, host, LABELS, NESTING, 1.0, **options)

    def loss(head, z):
        found = head(z, y, **options)
        assert isinstance(found, mrl.NestedLoss)
        return found.total, found.per_level

    for transform in (lambda f: f, nnx.jit):
        logits = transform(lambda head, z: head(z))(head, z)
        np.testing.assert_allclose(logits, spec.nested_logits(Z, host, NESTING), **CLOSE)
        value_and_grad = transform(nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (total, per_level), (gradients, found) = value_and_grad(head, z)
        np.testing.assert_allclose(total, expected.total, **CLOSE)
        np.testing.assert_allclose(per_level, expected.per_level, **CLOSE)
        np.testing.assert_allclose(found, dz, **CLOSE)
        assert_same(gradients, dhead)


@KINDS
def test_gradients_are_those_of_the_functions_to_the_bit(tied, bias):
    import jax
    from flax import nnx

    head, (z, y) = made(tied, bias), embeddings()
    expected = jax.grad(lambda head: mrl.nested_cross_entropy(z, head, y, NESTING).total)(head.head)
    assert_same(nnx.grad(lambda head: head(z, y).total)(head), expected, rtol=0)


@TIED
def test_every_option_of_the_loss_goes_through(tied):
    import jax.numpy as jnp

    head, (z, y) = made(tied), embeddings()
    options = {
        "label_smoothing": 0.1,
        "ignore_index": 1,
        "sample_weight": jnp.linspace(0.5, 2.0, len(y), dtype=jnp.float32),
        "class_weight": jnp.array([1.0, 2.0, 0.5, 3.0]),
        "level_weights": jnp.array([1.0, 0.0, 2.0]),
        "reduction": "none",
        "fused": False,
        "chunk_rows": 2,
    }
    devices = ["across", "classes_across"]  # of which there is one here
    assert list(inspect.signature(mrl.nested_cross_entropy).parameters)[4:] == [*options, *devices]
    for name, value in options.items():
        expected = mrl.nested_cross_entropy(z, head.head, y, NESTING, **{name: value})
        for call in (head, head.loss):
            for a, b in zip(call(z, y, **{name: value}), expected, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
    shares = jnp.eye(CLASSES, dtype=z.dtype)[y]
    np.testing.assert_allclose(head(z, shares).total, head(z, y).total, rtol=1e-6)


def test_num_items_divides_the_sum():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    head, (z, y) = made(), embeddings()

    @nnx.value_and_grad
    def total(head, z, y, items=None):
        return head(z, y, num_items=items, ignore_index=1).total

    whole, expected = total(head, z, y)
    counts = 4, np.int64(4), jnp.array(4)  # of the labels, two are ignored
    pieces = [total(head, z[i : i + 2], y[i : i + 2], n) for i, n in zip((0, 2, 4), counts, strict=True)]
    values, gradients = zip(*pieces, strict=True)
    np.testing.assert_allclose(sum(values), whole, rtol=1e-6)
    assert all(value.dtype == jnp.float32 for value in values)
    assert_same(jax.tree.map(lambda *parts: sum(parts), *gradients), expected)
    per_level = head(z, y, num_items=4.0, ignore_index=1).per_level
    np.testing.assert_allclose(per_level, head(z, y, ignore_index=1).per_level, rtol=1e-6)


def test_a_count_of_items_is_data():
    import jax.numpy as jnp
    from flax import nnx

    head, (z, y) = made(), embeddings()
    traces = []

    @nnx.jit
    def total(head, items):
        traces.append(items)
        return head(z, y, num_items=items).total

    for items in (2, 6):
        np.testing.assert_allclose(total(head, jnp.array(items)), head(z, y).total * 6 / items, rtol=1e-6)
    assert np.isnan(total(head, jnp.array(-1))), "nobody sees that it is wrong"
    assert len(traces) == 1


def test_of_no_items_the_loss_is_zero():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    head, (z, y) = made(), embeddings()
    total = nnx.value_and_grad(lambda head, none: head(z, y * 0 + 1, num_items=none, ignore_index=1).total)
    for none in (0, jnp.array(0)):
        loss, gradients = total(head, none)
        assert loss == 0 and not any(leaf.any() for leaf in jax.tree.leaves(gradients))


@KINDS
def test_initialised_as_linear_layers_are(tied, bias):
    """Drawn in their order: the same numbers from the same keys."""
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    head = MatryoshkaHead(NESTING, CLASSES, tied=tied, bias=bias, rngs=nnx.Rngs(0, params=7))
    rngs = nnx.Rngs(0, params=7)
    kernels, biases = ([head.kernel], [head.bias]) if tied else (head.kernels, head.biases)
    for g, dim in enumerate(NESTING.dims[-1:] if tied else NESTING.dims):
        layer = nnx.Linear(dim, CLASSES, use_bias=bias, rngs=rngs)
        assert type(kernels[g]) is nnx.Param
        np.testing.assert_array_equal(kernels[g][...], layer.kernel[...])
        if bias:
            assert type(biases[g]) is nnx.Param and not biases[g][...].any()


@TIED
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_parameters_of_any_dtype(tied, dtype):
    import jax
    from flax import nnx

    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("JAX has no 64-bit numbers here")
    head, (z, y) = made(tied, param_dtype=dtype), embeddings()
    assert all(array.dtype == dtype for array in head_leaves(head.head))
    loss, gradients = nnx.value_and_grad(lambda head: head(z.astype(dtype), y).total)(head)
    assert loss.dtype == ("float64" if dtype == "float64" else "float32")
    assert all(gradient.dtype == dtype for gradient in jax.tree.leaves(gradients))
    assert head.at(3).kernel.dtype == dtype


@KINDS
def test_the_classifier_of_one_granularity(tied, bias):
    from flax import nnx

    head, (z, _) = made(tied, bias), embeddings()
    logits = head(z)
    for g, dim in enumerate(NESTING.dims):
        layer = head.at(dim)
        assert type(layer) is nnx.Linear and (layer.in_features, layer.use_bias) == (dim, bias)
        np.testing.assert_allclose(layer(z[:, :dim]), logits[g], **CLOSE)
        for predict in (type(head).predict, nnx.jit(type(head).predict, static_argnums=2)):
            np.testing.assert_array_equal(predict(head, z, dim), logits[g].argmax(-1))
        layer.kernel[...] *= 0
    np.testing.assert_array_equal(head(z), logits, err_msg="a copy, of which the head knows nothing")
    np.testing.assert_array_equal(head.predict(z), logits[-1].argmax(-1))


@KINDS
def test_copies_outlive_a_step_that_donates(tied, bias):
    import jax
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    head, (z, _) = made(tied, bias), embeddings()
    logits = np.asarray(head(z))
    held = nnx.to_pure_dict(nnx.state(head))
    layer, copy = head.at(5), MatryoshkaHead.from_head(head.head, NESTING)
    jax.jit(lambda held: jax.tree.map(lambda x: x + 1, held), donate_argnums=0)(held)
    assert all(array.is_deleted() for array in jax.tree.leaves(held))
    np.testing.assert_allclose(layer(z), logits[-1], **CLOSE)
    np.testing.assert_allclose(copy(z), logits, **CLOSE)


@KINDS
def test_from_head_copies_arrays_of_any_framework(tied, bias):
    import jax
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    head = mrl.init_head(NESTING, CLASSES, tied=tied, backend="numpy", seed=0, dtype=dtype)
    head = head if bias else head._replace(**{"bias" if tied else "biases": None})
    module = MatryoshkaHead.from_head(head, NESTING)
    assert_same(module, head, rtol=0)
    assert all(array.dtype == dtype for array in head_leaves(module.head))
    assert nnx.graphdef(module) == nnx.graphdef(made(tied, bias))
    for array in head_leaves(head):
        array[:] = 0
    assert all(array.any() for array in head_leaves(module.head))


def test_a_tied_head_may_be_wider_than_its_nesting():
    import jax.numpy as jnp
    from mrl.adapters.flax import MatryoshkaHead

    rng = np.random.default_rng(0)
    head, z = mrl.TiedHead(jnp.asarray(rng.normal(size=(CLASSES, 9)))), jnp.asarray(rng.normal(size=(2, 9)))
    module = MatryoshkaHead.from_head(head, NESTING)
    np.testing.assert_array_equal(module(z), mrl.nested_logits(z, head, NESTING))
    np.testing.assert_array_equal(module.predict(z), module(z)[-1].argmax(-1))
    assert module.at(5).in_features == 5


def test_what_it_says_of_itself():
    assert repr(made(True)) == f"MatryoshkaHead({NESTING}, classes=4, tied=True, bias=True)"
    assert repr(made(bias=False)) == f"MatryoshkaHead({NESTING}, classes=4, tied=False, bias=False)"
    shown = str(made())
    assert f"nesting={NESTING}" in shown and shown.count("Param( #") == 6


def test_errors():
    import jax.numpy as jnp
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    head, (z, y), rngs = made(), embeddings(), nnx.Rngs(0)
    asked = {
        r"nesting: expected an mrl\.Nesting": lambda: MatryoshkaHead((2, 3), 4, rngs=rngs),
        r"classes: expected an integer of at least 1, got 0": lambda: MatryoshkaHead(NESTING, 0, rngs=rngs),
        r"tied: expected True or False, got 'yes'": lambda: MatryoshkaHead(NESTING, 4, tied="yes", rngs=rngs),
        r"bias: expected True or False, got None": lambda: MatryoshkaHead(NESTING, 4, bias=None, rngs=rngs),
        r"rngs: expected an nnx\.Rngs, got int": lambda: MatryoshkaHead(NESTING, 4, rngs=0),
        r"dim: expected one of \(2, 3, 5\), got 4": lambda: head.at(4),
        r"dim: expected an integer, got float": lambda: head.predict(z, 2.0),
        r"dim: expected an integer in \[1, 3\], the last axis of z, got 5": lambda: head.predict(z[:, :3]),
        r"labels: expected .* beside ignore_index, num_items, got None": lambda: head(z, ignore_index=1, num_items=3),
        r"reduction: expected nothing beside num_items, got 'mean'": lambda: head(z, y, num_items=3, reduction="mean"),
        r"num_items: expected a number of examples, got True": lambda: head(z, y, num_items=True),
        r"num_items: expected a number of examples, got '3'": lambda: head(z, y, num_items="3"),
        r"num_items: expected .* of at least 0, got -1": lambda: head(z, y, num_items=-1),
        r"num_items: expected one number, got shape \(6,\)": lambda: head(z, y, num_items=y),
        r"labels: expected values in \[0, 4\), got 9 at position 2": lambda: head(z[:3], jnp.array([0, 1, 9])),
        r"z: expected shape \(\.\.\., D\) with D at least 5": lambda: head(z[:, :3]),
        r"head: expected an mrl\.TiedHead or mrl\.NestedHead, got ": lambda: MatryoshkaHead.from_head(z, NESTING),
        r"head\.weight: expected shape \(\.\.\., D\) with D at least 5": lambda: MatryoshkaHead.from_head(
            mrl.TiedHead(jnp.ones((4, 3))), NESTING
        ),
    }
    for message, ask in asked.items():
        with pytest.raises((TypeError, ValueError), match=message):
            ask()
