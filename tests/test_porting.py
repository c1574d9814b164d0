"""Heads and trees of arrays carried from one framework to another, and heads made from a seed."""

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest

import mrl
from mrl.dispatch import backend_named
from mrl.heads import head_leaves
from mrl.testing.drivers import driver_of

NESTING = mrl.Nesting((2, 5))


class Pair(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize("tied", [True, False])
def test_heads_go_there_and_back(backend_name: str, tied: bool) -> None:
    head = mrl.init_head(NESTING, 3, tied=tied, backend="numpy", seed=4)
    there = mrl.convert(head, backend_name)
    assert type(there) is type(head)
    back = mrl.convert(there, "numpy")
    for a, b in zip(head_leaves(back), head_leaves(head), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    z = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    logits = mrl.convert(mrl.nested_logits(mrl.convert(z, backend_name), there, NESTING), "numpy")
    np.testing.assert_allclose(logits, mrl.spec.nested_logits(z, head, NESTING), rtol=1e-5, atol=1e-6)


def test_trees_keep_their_structure(backend_name: str, widest_bits: int) -> None:
    floating, integer = f"float{widest_bits}", f"int{widest_bits}"
    tree = {
        "a": [np.ones(2, floating), (np.zeros(1, floating), None)],
        "b": Pair(np.arange(3, dtype=integer), "text"),
        3: 4.5,
        "head": mrl.TiedHead(np.ones((2, 2), floating)),
    }
    there = mrl.convert(tree, backend_name)
    kind = type(backend_named(backend_name).from_numpy(np.ones(2, floating), dtype=None, device=None))
    assert isinstance(there["a"][0], kind)
    assert isinstance(there["a"][1], tuple)
    assert there["a"][1][1] is None
    assert type(there["b"]) is Pair
    assert there["b"].second == "text"
    assert there[3] == 4.5
    assert there["head"].bias is None
    np.testing.assert_array_equal(mrl.convert(there, "numpy")["b"].first, [0, 1, 2])


def test_what_is_one_array_stays_one(backend_name: str) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = mrl.convert({"embedding": table, "head": mrl.TiedHead(table), "other": table.copy()}, backend_name)
    assert tree["embedding"] is tree["head"].weight
    assert tree["other"] is not tree["embedding"]


def test_every_dtype_survives(backend_name: str) -> None:
    backend = backend_named(backend_name)
    for dtype in driver_of(backend_name).dtypes:
        array = backend.from_numpy(np.array([1.5, -0.25]), dtype=dtype, device=None)
        assert dtype in str(array.dtype)
        back = mrl.convert(array, "numpy")
        assert str(back.dtype) == dtype
        again = mrl.convert(back, backend_name)
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(mrl.convert(again, "numpy"), np.float64), [1.5, -0.25])


def test_awkward_arrays(backend_name: str, widest_bits: int) -> None:
    """Not contiguous, reversed, read-only, of no axis, of no entry, of the other byte order, between other fields."""
    row = np.arange(12, dtype=f"float{widest_bits}")
    frozen = row[:6].reshape(2, 3)
    frozen.setflags(write=False)
    swapped = row.astype(row.dtype.newbyteorder())
    field = np.array([(1.5, 1), (2.5, 2)], [("x", row.dtype), ("y", np.int8)])["x"]
    for array in (
        row.reshape(3, 4).T,
        row[::-1],
        frozen,
        row[:1].reshape(()),
        row[:0].reshape(0, 2),
        swapped,
        field,
    ):
        back = mrl.convert(mrl.convert(array, backend_name), "numpy")
        np.testing.assert_array_equal(back, array)
        assert np.shape(back) == np.shape(array)


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.float64(0.5), np.int64(3), np.bool_(True)])
def test_scalars_of_numpy_are_arrays(backend_name: str, widest_bits: int, scalar: np.generic) -> None:
    if 8 * scalar.itemsize > widest_bits:
        with pytest.raises(ValueError, match=r"dtype: expected one that JAX keeps, got (int|float)64"):
            mrl.convert({"temperature": scalar}, backend_name)
        return
    array = mrl.convert({"temperature": scalar}, backend_name)["temperature"]
    assert type(array) is type(scalar) if backend_name == "numpy" else array.shape == ()
    assert mrl.convert(array, "numpy") == scalar


def test_memory_is_shared_with_torch(backend_torch: None) -> None:
    array = np.zeros(3, np.float32)
    tensor = mrl.convert(array, "torch")
    tensor[0] = 7
    assert array[0] == 7
    assert mrl.convert(tensor, "torch") is tensor


def test_gradients_are_not_carried(backend_torch: None) -> None:
    import torch

    weight = torch.nn.Parameter(torch.ones(2, 3))
    assert isinstance(mrl.convert(weight * 2, "numpy"), np.ndarray)


def test_traced_arrays_are_refused(backend_jax: None) -> None:
    import jax

    with pytest.raises(TypeError, match=r"traced|symbolic"):
        jax.jit(lambda x: mrl.convert(x, "numpy"))(np.ones(2, np.float32))


@pytest.mark.parametrize("device", ["nowhere", "gpu:63", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(backend_name: str, device: str) -> None:
    for place in (
        lambda: mrl.convert(np.ones(2, np.float32), backend_name, device=device),
        lambda: mrl.init_head(mrl.Nesting((2,)), 3, tied=True, backend=backend_name, seed=0, device=device),
    ):
        with pytest.raises(ValueError, match=f"device: expected a device such as .*, got '{device}'"):
            place()


def test_the_default_device_of_torch_is_a_default_here(backend_torch: None) -> None:
    import torch

    with torch.device("meta"):
        assert mrl.init_head(mrl.Nesting((2,)), 3, tied=True, backend="torch", seed=0).weight.device.type == "meta"
        assert mrl.convert(np.ones(2), "torch", device="cpu").device.type == "cpu"


def test_a_leaf_that_cannot_be_ported_is_named(framework_name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=r"tree\['y'\]\[1\]: "):
        mrl.convert({"y": [np.ones(2, np.float32), np.array([object()])]}, framework_name)


def test_convert_refuses() -> None:
    with pytest.raises(ValueError, match="backend: expected one of"):
        mrl.convert(np.ones(2), "mxnet")
    with pytest.raises(TypeError, match=r"tree\['a'\]\[1\]: expected an array"):
        mrl.convert({"a": [np.ones(1), object()]}, "numpy")


@pytest.mark.parametrize("tied", [True, False])
def test_one_seed_is_one_head_in_every_framework(backend_name: str, tied: bool) -> None:
    for dtype in driver_of(backend_name).dtypes:
        head = mrl.init_head(NESTING, 3, tied=tied, backend=backend_name, seed=1, dtype=dtype)
        expected = mrl.init_head(NESTING, 3, tied=tied, backend="numpy", seed=1, dtype="float64")
        leaves, wide = (head_leaves(mrl.convert(h, "numpy")) for h in (head, expected))
        for a, b in zip(leaves, wide, strict=True):
            assert str(a.dtype) == dtype
            np.testing.assert_array_equal(np.asarray(a, np.float64), mrl.testing.problems.round_to(b, dtype))


def test_a_fresh_head_is_spread_like_a_linear_layer() -> None:
    head = mrl.init_head(mrl.Nesting((4, 64)), 1000, tied=False, backend="numpy", seed=0, dtype="float64")
    for m, weight in zip((4, 64), head.weights, strict=True):
        bound = m**-0.5
        assert np.abs(weight).max() <= bound
        assert np.isclose(weight.std(), bound / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_init_head_gives_the_same_numbers_everywhere(backend_name: str, dtype: str) -> None:
    """Among so many, some would be rounded another way if they went to half precision in one step."""
    arguments = {"tied": True, "seed": 0, "dtype": dtype}
    if (backend_name, dtype) == ("numpy", "bfloat16") and find_spec("ml_dtypes") is None:
        with pytest.raises(ImportError, match="run pip install ml_dtypes"):
            mrl.init_head(NESTING, 3, backend="numpy", **arguments)
        return
    head = mrl.convert(mrl.init_head(mrl.Nesting((2048,)), 1000, backend=backend_name, **arguments), "numpy")
    drawn = mrl.init_head(mrl.Nesting((2048,)), 1000, backend="numpy", tied=True, seed=0)
    with np.errstate(under="ignore"):  # the smallest become subnormal
        np.testing.assert_array_equal(head.weight, drawn.weight.astype(head.weight.dtype))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classes": 0}, ValueError, "classes: expected an integer of at least 1"),
        ({"classes": 2.5}, TypeError, "classes: expected an integer"),
        ({"seed": -1}, ValueError, "seed: expected an integer of at least 0"),
        ({"seed": None}, TypeError, "seed: expected an integer"),
        ({"tied": 1}, TypeError, "tied: expected True or False"),
        ({"dtype": "int8"}, ValueError, "dtype: expected one of"),
        ({"backend": "mxnet"}, ValueError, "backend: expected one of"),
        ({"nesting": (2, 4)}, TypeError, r"nesting: expected an mrl\.Nesting"),
    ],
)
def test_init_head_refuses(change: dict, error: type, message: str) -> None:
    arguments = {"nesting": NESTING, "classes": 3, "tied": True, "backend": "numpy", "seed": 0, **change}
    with pytest.raises(error, match=message):
        mrl.init_head(arguments.pop("nesting"), arguments.pop("classes"), **arguments)


def test_available_backends_lists_what_is_here(backend_name: str) -> None:
    found = {info.name: info for info in mrl.available_backends()}
    assert next(iter(found)) == "numpy"
    assert found[backend_name].version[0].isdigit()
    assert any("cpu" in device.lower() for device in found[backend_name].devices)
