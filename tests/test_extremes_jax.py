"""Numbers whose reciprocal XLA flushes to zero, in JAX: lengths of embeddings and temperatures."""

import numpy as np
import pytest

import mrl
from mrl import spec

EAGER_AND_JIT = pytest.mark.parametrize("mode", ["eager", "jit"])


@pytest.fixture(autouse=True)
def _jax(backend_jax: None) -> None:
    pass


def in_mode(mode, function):
    import jax

    return jax.jit(function) if mode == "jit" else function


@EAGER_AND_JIT
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("size", [3e38, 1e38, 2.0**62, 2e-12])
def test_truncate_of_the_largest_and_the_smallest(mode: str, dtype: str, size: float) -> None:
    import jax.numpy as jnp

    found = in_mode(mode, lambda z: mrl.truncate(z, 2))(jnp.asarray([[size, -size, 1.0]], dtype))
    np.testing.assert_allclose(np.asarray(found, np.float64), [[0.5**0.5, -(0.5**0.5)]], rtol=2.0**-8)


@EAGER_AND_JIT
@pytest.mark.parametrize("size", [1e-13, 1e-19, 2.0**-126])
def test_truncate_of_next_to_nothing_is_zero(mode: str, size: float) -> None:
    import jax
    import jax.numpy as jnp

    z = jnp.full((1, 3), size)
    assert not in_mode(mode, lambda z: mrl.truncate(z, 2))(z).any()
    assert not in_mode(mode, jax.grad(lambda z: mrl.truncate(z, 2)[0, 0]))(z).any()


@EAGER_AND_JIT
def test_gradient_of_truncate_where_squares_would_overflow(mode: str) -> None:
    import jax
    import jax.numpy as jnp

    z = np.array([[3e25, 4e25, 1.0]], np.float32)
    found = in_mode(mode, jax.grad(lambda z: mrl.truncate(z, 2)[0, 0]))(jnp.asarray(z))
    np.testing.assert_allclose(found, spec.truncate_vjp(z, 2, np.array([[1.0, 0.0]])), rtol=1e-5)


def test_what_truncate_gives_is_never_its_argument() -> None:
    import jax.numpy as jnp

    z = jnp.ones((2, 3))
    assert mrl.truncate(z, 3, normalize=False).unsafe_buffer_pointer() != z.unsafe_buffer_pointer()


@EAGER_AND_JIT
@pytest.mark.parametrize("temperature", [1e-39, 1e38, 1e300])
@pytest.mark.parametrize("kind", ["probability", "margin", "entropy"])
def test_temperatures_beside_an_excluded_class(mode: str, temperature: float, kind: str) -> None:
    import jax.numpy as jnp

    policy = mrl.CascadePolicy((0.9,), (1, 2), confidence=kind, temperatures=(temperature, temperature))
    z, bias = np.ones((1, 2), np.float32), np.array([2.0, 1.0, -np.inf], np.float32)
    head = mrl.TiedHead(np.zeros((3, 2), np.float32), bias)
    with np.errstate(over="ignore"):
        expected = spec.cascade_predict(z, head, policy)
    z, head = mrl.convert((z, head), "jax")
    logits = jnp.broadcast_to(head.bias, (2, 1, 3))
    found = [
        in_mode(mode, lambda logits: mrl.cascade_exit(logits, policy, logits=True))(logits),
        in_mode(mode, lambda z: mrl.cascade_predict(z, head, policy))(z),
    ]
    for result in found:
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_allclose(result.confidence, expected.confidence, rtol=1e-6, atol=1e-6)
