"""From the type of an array to the backend that computes."""

import numpy as np
import pytest

import mrl
from mrl.dispatch import backend_named, backend_of, known_backends


def test_numpy_and_its_subclasses() -> None:
    class Mine(np.ndarray):
        pass

    for array in (np.ones(2), np.ones(2).view(Mine), np.float32(1)):
        assert backend_of({"x": array}) is backend_named("numpy")
    with pytest.raises(TypeError, match=r"x: expected an array without a mask.*fill it with array\.filled"):
        backend_of({"x": np.ma.ones(2)})


def test_torch_and_its_subclasses(backend_torch: None) -> None:
    import torch

    for array in (torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.nn.Buffer(torch.ones(2))):
        assert backend_of({"x": array}) is backend_named("torch")


def test_what_is_of_a_framework_and_no_array_is_refused(backend_torch: None) -> None:
    import torch

    for value in (torch.nn.Linear(2, 2), torch.float32, torch.Generator()):
        with pytest.raises(TypeError, match=r"weights: expected an array of one of .* got torch\."):
            backend_of({"weights": value})


def test_tensors_on_two_devices_are_told_apart(backend_torch: None) -> None:
    """PyTorch multiplies what is on ``meta`` with what is not, and makes numbers up."""
    import torch

    nesting, z, labels = mrl.Nesting((2, 4)), torch.ones(3, 4), torch.zeros(3, dtype=torch.int64)
    head = mrl.TiedHead(torch.ones(5, 4, device="meta"))
    for call in (
        lambda: mrl.nested_cross_entropy(z, head, labels, nesting),
        lambda: mrl.nested_logits(z, head, nesting),
        lambda: mrl.cascade_predict(z, head, mrl.CascadePolicy((0.5,), (2, 4))),
    ):
        with pytest.raises(ValueError, match=r"expected tensors on one device, got z: cpu, head\.weight: meta"):
            call()


def test_what_only_looks_like_an_array_is_refused(backend_tensorflow: None, backend_jax: None) -> None:
    import jax
    import tensorflow as tf

    ragged, sparse = tf.ragged.constant([[1.0, 2.0], [3.0]]), tf.sparse.from_dense([[1.0, 2.0]])
    for value in (ragged, sparse, tf.TensorSpec([2, 3]), jax.ShapeDtypeStruct((2, 3), "float32")):
        with pytest.raises(TypeError, match=f"z: expected an array of one of .* got .*{type(value).__name__}"):
            mrl.truncate(value, 1)


def test_jax_arrays_and_tracers(backend_jax: None) -> None:
    import jax
    import jax.numpy as jnp

    seen = []
    jax.jit(lambda x: seen.append(backend_of({"x": x})) or x)(jnp.ones(2))
    jax.grad(lambda x: seen.append(backend_of({"x": x})) or x)(1.0)
    assert [*seen, backend_of({"x": jnp.ones(2)})] == [backend_named("jax")] * 3


def test_tensorflow_tensors_variables_and_symbols(backend_tensorflow: None) -> None:
    import tensorflow as tf

    seen = []
    tf.function(lambda x: seen.append(backend_of({"x": x})))(tf.ones(2))
    seen += [backend_of({"x": x}) for x in (tf.ones(2), tf.Variable(tf.ones(2)))]
    assert seen == [backend_named("tensorflow")] * 3


def test_what_is_no_array_is_refused_by_name() -> None:
    for value in (3, [1.0], "text", None, object()):
        with pytest.raises(TypeError, match=r"weights: expected an array of one of .* got .*; convert it"):
            backend_of({"weights": value})
    with pytest.raises(TypeError, match=r"weights: expected an array of one of .* got numpy\."):
        backend_of({"weights": np.random.default_rng()})
    with pytest.raises(TypeError, match="expected at least one array"):
        backend_of({})


def test_two_frameworks_are_refused_by_name(backend_torch: None) -> None:
    import torch

    z, head, labels = torch.ones(1, 2), mrl.TiedHead(np.ones((3, 2))), np.array([0])
    with pytest.raises(
        TypeError, match=r"one framework, got z: torch\.Tensor, head\.weight: numpy\.ndarray, labels: num"
    ):
        mrl.nested_cross_entropy(z, head, labels, mrl.Nesting((1, 2)))


def test_backends_by_name() -> None:
    assert known_backends()[:4] == ("numpy", "torch", "jax", "tensorflow")
    with pytest.raises(ValueError, match=r"backend: expected one of .* got 'mxnet'; install a plug-in"):
        backend_named("mxnet")
    with pytest.raises(TypeError, match="backend: expected a name such as 'torch', got 3"):
        backend_named(3)


def test_a_missing_framework_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("mrl.backends.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mrl.backends.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"backend 'torch' cannot be imported .*; run pip install 'mrl\[torch\]'"):
        backend_named("torch")
