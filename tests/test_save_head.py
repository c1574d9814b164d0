"""Heads in files: exact, small in memory, whole or not at all, and refused where they are not what they say."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import numpy as np
import pytest
from head_cases import NESTING, assert_same, head_of

import mrl
from mrl.heads import head_leaves
from mrl.testing.drivers import driver_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "head.safetensors"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_every_framework_reads_what_every_framework_wrote(path, backend_name: str, tied: bool, bias: bool) -> None:
    for dtype in driver_of(backend_name).dtypes:
        head = head_of(dtype, tied, bias)
        there = mrl.convert(head, backend_name)
        mrl.save_head(path, there, NESTING, metadata={"größe": "ü\n"})
        for backend in {"numpy", backend_name}:
            saved = mrl.load_head(path, backend=backend)
            assert type(head_leaves(saved.head)[0]) is type(head_leaves(mrl.convert(head, backend))[0])
            assert_same(mrl.convert(saved.head, "numpy"), head)
            assert saved.nesting == NESTING and saved.metadata == {"größe": "ü\n"}


@pytest.mark.parametrize("tied", [True, False])
def test_strange_arrays(path, tied: bool) -> None:
    """Views, both byte orders, Fortran order, what is no number, and dtypes that differ within a head."""
    rng = np.random.default_rng(0)
    matrices = [
        np.asfortranarray(rng.normal(size=(3, 2))),
        rng.normal(size=(6, 10)).astype(np.float32)[::-2, ::2],
        np.array([[np.nan, -0.0, np.inf, 5e-324, 1.0]] * 3, ">f8"),
    ]
    for g, matrix in enumerate(matrices):
        nesting = mrl.Nesting((matrix.shape[1],)) if tied else mrl.Nesting((2, 5))
        bias = np.arange(3, dtype=np.float16)
        head = (
            mrl.TiedHead(matrix, bias) if tied else mrl.NestedHead((matrices[0], matrices[1 + g % 2]), (bias, bias * 2))
        )
        mrl.save_head(path, head, nesting)
        assert_same(mrl.load_head(path).head, mrl.convert(head, "numpy"))


def test_the_reference_implementation_agrees(path) -> None:
    """What we write its reader reads, and what its writer writes so do we."""
    pytest.importorskip("safetensors")
    import safetensors as reference
    import safetensors.numpy

    head = head_of("float32", False, True)
    mrl.save_head(path, head, NESTING, metadata={"a": "b"})
    with reference.safe_open(path, "np") as file:
        metadata = file.metadata()
        assert {"dims", "weights", "tied", "dtype", "format", "version", "a"} <= set(metadata)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for g in range(len(NESTING)):
        np.testing.assert_array_equal(arrays[f"weights.{g}"], head.weights[g])
        np.testing.assert_array_equal(arrays[f"biases.{g}"], head.biases[g])
    reference.numpy.save_file(arrays, path, metadata=metadata)
    assert_same(mrl.load_head(path).head, head)


def test_bfloat16_by_its_bytes(tmp_path) -> None:
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}).encode()
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes.fromhex("803f20c0cd3d"))
    if find_spec("ml_dtypes") is None:
        with pytest.raises(ImportError, match="pip install ml_dtypes"):
            mrl.read_head(path, mrl.Nesting((1, 3)))
        return
    head, _ = mrl.read_head(path, mrl.Nesting((1, 3)))
    assert head.weight.dtype.name == "bfloat16"
    assert head.weight.astype(np.float64).tolist() == [[1.0, -2.5, 0.10009765625]]


def test_what_is_one_array_is_stored_once(path, backend_name: str) -> None:
    bias = mrl.convert(np.arange(500, dtype=np.float32), backend_name)
    weights = mrl.convert(tuple(np.zeros((500, m), np.float32) for m in NESTING.dims), backend_name)
    mrl.save_head(path, mrl.NestedHead(weights, (bias,) * len(NESTING)), NESTING)
    shared = path.stat().st_size
    apart = tuple(mrl.convert(np.arange(500, dtype=np.float32), backend_name) for _ in NESTING.dims)
    mrl.save_head(path.with_name("apart"), mrl.NestedHead(weights, apart), NESTING)
    assert path.with_name("apart").stat().st_size - shared > (len(NESTING) - 1) * 2000 - 256
    for found in (mrl.load_head(path, backend=backend_name).head, mrl.read_head(path, backend=backend_name)[0]):
        assert all(other is found.biases[0] for other in found.biases)
        np.testing.assert_array_equal(mrl.convert(found.biases[-1], "numpy"), np.arange(500))


def test_wrapped_arrays_are_opened(path, backend_jax: None) -> None:
    nnx = pytest.importorskip("flax.nnx")
    head = head_of("float32", True, True)
    mrl.save_head(path, mrl.TiedHead(*(nnx.Param(leaf) for leaf in mrl.convert(head, "jax"))), NESTING)
    assert_same(mrl.load_head(path).head, head)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metadata": {"dims": "x"}}, ValueError, "metadata: expected names other than .*, got 'dims'"),
        ({"metadata": {"a": 1}}, TypeError, "metadata: expected text by name, got 'a': 1"),
        ({"metadata": "text"}, TypeError, "metadata: expected text by name, got str"),
        ({"metadata": {"a": "\ud800"}}, ValueError, "metadata: expected text, got 'a'"),
        ({"nesting": (2, 5)}, TypeError, r"nesting: expected an mrl\.Nesting"),
        ({"nesting": mrl.Nesting((2, 5, 6))}, ValueError, r"head\.weight: expected shape"),
        ({"head": np.ones(2)}, TypeError, "head: expected an mrl.TiedHead"),
        ({"head": mrl.TiedHead(np.ones((2, 5), int))}, TypeError, r"head\.weight: expected a dtype"),
        ({"head": mrl.TiedHead(np.ones((2, 5)), np.ones(3))}, ValueError, r"head\.bias: expected shape"),
        ({"head": mrl.TiedHead(np.ones(5))}, ValueError, r"head\.weight: expected shape \(C, D\)"),
    ],
)
def test_what_is_no_head_is_not_written(path, change: dict, error: type, message: str) -> None:
    arguments = {"head": mrl.TiedHead(np.ones((2, 5))), "nesting": NESTING, **change}
    with pytest.raises(error, match=message):
        mrl.save_head(path, arguments.pop("head"), arguments.pop("nesting"), **arguments)
    assert not os.listdir(path.parent)


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = head_of("float32", True, True)
    mrl.save_head(path, head, NESTING)

    def fail(*_) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        mrl.save_head(path, mrl.TiedHead(np.zeros((3, 5))), NESTING)
    assert os.listdir(path.parent) == [path.name]
    assert_same(mrl.load_head(path).head, head)


def test_load_refuses(path) -> None:
    mrl.save_head(path, head_of("float64", True, True), NESTING)
    with pytest.raises(ValueError, match="backend: expected one of"):
        mrl.load_head(path, backend="mxnet")
    with pytest.raises(ValueError, match="device: expected a device"):
        mrl.load_head(path, device="nowhere")
    with pytest.raises(FileNotFoundError):
        mrl.load_head(path.with_name("none"))


MEMORY = """
import sys
import numpy as np
import mrl

backend, path, what, dtype = sys.argv[1:]
nesting = mrl.Nesting((64, 1024))
if dtype == "bfloat16":
    import ml_dtypes
    dtype = ml_dtypes.bfloat16
BYTES = 1024 * 8192 * np.dtype(dtype).itemsize

def peak():  # what is read of the file may lie in the page cache, but not here
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def head(classes):
    return mrl.convert(mrl.TiedHead(np.ones((classes, 1024), dtype)), backend)

mrl.save_head(path + ".small", head(2), nesting)
mrl.load_head(path + ".small", backend=backend)
if what == "save":
    big = head(8192)
    getattr(big.weight, "block_until_ready", lambda: None)()  # JAX may still be copying
    before = peak()
    mrl.save_head(path, big, nesting)
else:
    before = peak()
    saved = mrl.load_head(path, backend=backend)
    assert saved.head.weight.shape == (8192, 1024)
print((peak() - before) / BYTES)
"""


def measured(backend: str, path, what: str, dtype: str = "float32") -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, backend, str(path), what, dtype],
        env=dict(os.environ),
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def test_memory_beside_the_file(tmp_path, backend_name: str) -> None:
    """In shares of the head: nothing to save one, and one head to load one."""
    assert measured(backend_name, tmp_path / "head", "save") < 0.2
    assert 0.9 < measured(backend_name, tmp_path / "head", "load") < 1.2


def test_memory_of_bfloat16(tmp_path, framework_name: str) -> None:
    measured("numpy", tmp_path / "head", "save", "bfloat16")
    assert 0.9 < measured(framework_name, tmp_path / "head", "load", "bfloat16") < 1.2


def test_rows_longer_than_a_part(path) -> None:
    """What is no whole piece of memory is written a part at a time; a row may be more than a part."""
    wide = np.zeros((2, 2**19 + 2), np.float32)
    wide[:] = np.arange(wide.shape[1])
    head, nesting = mrl.TiedHead(wide[:, ::2]), mrl.Nesting((8, wide.shape[1] // 2))
    assert head.weight[:1].nbytes > 2**20
    mrl.save_head(path, head, nesting)
    np.testing.assert_array_equal(mrl.load_head(path, backend="numpy").head.weight, head.weight)
