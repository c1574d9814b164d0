"""The precision of products in JAX: that of the factors and of JAX's own setting, read in what is handed to XLA."""

import re

import numpy as np
import pytest
from transform_cases import HEAD, LABELS, NESTING, Z

import mrl
from mrl import spec
from mrl.heads import head_leaves

SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
HALVES = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
UNTIED = mrl.NestedHead(tuple(np.ascontiguousarray(HEAD.weight[:, :m]) for m in NESTING.dims), (HEAD.bias,) * 3)
POLICY = mrl.CascadePolicy((0.5, 0.5), NESTING.dims)


@pytest.fixture(autouse=True)
def _jax(backend_jax: None) -> None:
    pass


def cast(tree, dtype: str):
    import jax

    return jax.tree.map(lambda x: mrl.convert(np.asarray(x, np.float32), "jax").astype(dtype), tree)


def loss(z, head, **options):
    return mrl.nested_cross_entropy(z, head, mrl.convert(LABELS, "jax"), NESTING, **options).total.sum()


def gradient(**options):
    def of(z, head):
        import jax

        return jax.grad(lambda z, head: loss(z, head, **options), argnums=(0, 1))(z, head)

    return of


def lowered(function, dtype: str, head=HEAD) -> str:
    import jax

    return jax.jit(function).lower(cast(Z, dtype), cast(head, dtype)).as_text()


def products(text: str) -> set[tuple[str, ...]]:
    """The dtypes of factors and results of all products."""
    pattern = r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\) -> tensor<[\dx]*x(\w+)>"
    found = re.findall(pattern, text)
    assert len(found) == text.count("dot_general") > 0
    return set(found)


FUNCTIONS = {
    "fused": gradient(),
    "chunks": gradient(chunk_rows=3),
    "per example": gradient(reduction="none"),
    "composed": lambda z, head: loss(z, head, fused=False),
    "logits": lambda z, head: mrl.nested_logits(z, head, NESTING),
    "cascade": lambda z, head: mrl.cascade_predict(z, head, POLICY),
}


@HALVES
@pytest.mark.parametrize("head", [HEAD, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_are_multiplied_as_such_into_float32(name: str, head, dtype: str) -> None:
    text = lowered(FUNCTIONS[name], dtype, head)
    assert products(text) == {(SHORT[dtype], SHORT[dtype], "f32")}
    assert "HIGH" not in text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_multiplied_as_jax_is_set_to(name: str) -> None:
    import jax

    assert "HIGH" not in lowered(FUNCTIONS[name], "float32")
    with jax.default_matmul_precision("highest"):
        text = lowered(FUNCTIONS[name], "float32")
    assert text.count("precision = [HIGHEST, HIGHEST]") == text.count("dot_general") > 0


def test_factors_of_two_dtypes_are_promoted() -> None:
    import jax

    for narrow, wide in (("bfloat16", "float32"), ("float16", "bfloat16")):
        text = jax.jit(gradient()).lower(cast(Z, narrow), cast(HEAD, wide)).as_text()
        assert products(text) == {("f32", "f32", "f32")}


@HALVES
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_as_near_as_those_of_jax_itself(tied: bool, fused: bool, dtype: str) -> None:
    import jax
    import jax.numpy as jnp

    ours, theirs = np.zeros(2), np.zeros(2)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rows, classes = int(rng.integers(2, 40)), int(rng.integers(2, 30))
        nesting = mrl.Nesting((4, 8, 32), weights=(1.0, 0.5, 2.0))
        z = cast(rng.normal(size=(rows, 32)), dtype)
        widths = (32,) if tied else nesting.dims
        weights = [cast(rng.normal(size=(classes, m)) / m**0.5, dtype) for m in widths]
        labels = rng.integers(0, classes, rows).astype(np.int32)

        def make(weights, tied=tied):
            return mrl.TiedHead(weights[0]) if tied else mrl.NestedHead(tuple(weights))

        def mine(z, weights, labels=labels, nesting=nesting, make=make):
            return mrl.nested_cross_entropy(z, make(weights), jnp.asarray(labels), nesting, fused=fused).total

        def plain(z, weights, labels=labels, nesting=nesting):
            total = 0
            for g, (m, w) in enumerate(zip(nesting.dims, nesting.weights, strict=True)):
                matrix = weights[0][:, :m] if len(weights) == 1 else weights[g]
                log_p = jax.nn.log_softmax((z[:, :m] @ matrix.T).astype(jnp.float32))
                total -= w * jnp.take_along_axis(log_p, labels[:, None], 1).mean()
            return total

        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), (z, weights))
        dz, dhead = spec.nested_cross_entropy_vjp(exact[0], make(exact[1]), labels, nesting, np.ones(()))
        for errors, function in ((ours, mine), (theirs, plain)):
            found = jax.jit(jax.grad(function, argnums=(0, 1)))(z, weights)
            assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
            for i, (got, wanted) in enumerate(((found[0:1], [dz]), (found[1], head_leaves(dhead)))):
                errors[i] += sum(
                    np.linalg.norm(np.asarray(a, np.float64) - b) for a, b in zip(got, wanted, strict=True)
                )
    assert (ours <= theirs).all()


def test_small_and_large_row_factors_in_float16() -> None:
    """The gradient of logits would vanish, or overflow, in float16."""
    import jax
    import jax.numpy as jnp

    z, head = cast(Z, "float16"), cast(HEAD, "float16")
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), (z, head))
    dz, dhead = spec.nested_cross_entropy_vjp(*exact, LABELS, NESTING, np.ones(()), reduction="sum")
    for scale in (2.0**-30, 2.0**20):

        def scaled(z, head, scale=scale):
            per_row = mrl.nested_cross_entropy(z, head, mrl.convert(LABELS, "jax"), NESTING, reduction="none").total
            return (scale * per_row).sum()

        # In float32 what is asked for is seen before it is rounded to float16.
        found = jax.grad(lambda z, b, scaled=scaled: scaled(z, mrl.TiedHead(head.weight, b)), argnums=1)(
            z, head.bias.astype(jnp.float32)
        )
        np.testing.assert_allclose(found / scale, dhead.bias, rtol=1e-3, atol=1e-3)
    found = jax.grad(lambda z: loss(z, head, reduction="sum") * 2.0**-10)(z)
    np.testing.assert_allclose(np.asarray(found, np.float64) * 2.0**10, dz, rtol=4e-3, atol=4e-3)
