"""What the tests of ``mrl.adapters.flax`` share."""

import numpy as np
import pytest

import mrl

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
CLASSES = 4
Z = np.random.default_rng(0).normal(size=(6, NESTING.width)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2, 0])
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
KINDS = pytest.mark.parametrize(
    ("tied", "bias"), [(False, True), (True, True), (False, False), (True, False)], ids=["mrl", "mrl-e", "mrl-", "e-"]
)
TIED = pytest.mark.parametrize("tied", [False, True])


def embeddings():
    import jax.numpy as jnp

    return jnp.asarray(Z), jnp.asarray(LABELS)


def made(tied=False, bias=True, **kw):
    """A head whose biases are not zero, as fresh ones are."""
    import jax
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    head = MatryoshkaHead(NESTING, CLASSES, tied=tied, bias=bias, rngs=nnx.Rngs(1), **kw)
    for g, vector in enumerate([] if not bias else [head.bias] if tied else head.biases):
        vector[...] = jax.random.normal(jax.random.key(g), vector.shape, vector.dtype)
    return head


def assert_same(found, expected, **close):
    """Heads, modules or the states of modules, by the names of their parameters."""
    import jax

    found, expected = _arrays(found), _arrays(expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **(close or CLOSE))


def _arrays(given):
    from flax import nnx

    if isinstance(given, mrl.TiedHead):
        given = {"kernel": given.weight.T, "bias": given.bias}
    elif isinstance(given, mrl.NestedHead):
        kernels = [weight.T for weight in given.weights]
        given = {"kernels": dict(enumerate(kernels)), "biases": given.biases and dict(enumerate(given.biases))}
    elif isinstance(given, (nnx.Module, nnx.State)):
        given = nnx.to_pure_dict(nnx.state(given) if isinstance(given, nnx.Module) else given)
    return {name: held for name, held in given.items() if held is not None}
