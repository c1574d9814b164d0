"""``mrl convert``: between all kinds of files, with what it found and how it arrived said, or nothing written."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from head_cases import HALF, NESTING, assert_same, head_of

import mrl
from mrl.cli import main
from mrl.porting import command

DIMS = "2,5"


@pytest.fixture
def saved(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def save(tied: bool, dtype: str = "float32", bias: bool = True):
        head = head_of(dtype, tied, bias)
        mrl.save_head("in.safetensors", head, NESTING, metadata={"run": "7"})
        return head

    return save


def convert(*arguments: str) -> list[str]:
    return ["convert", *arguments]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [HALF, "float64"])
@pytest.mark.parametrize("kind", [".safetensors", ".npz", ".pt", ".weights.h5"])
def test_there_and_back(saved, capsys, kind: str, dtype: str, tied: bool, backend_torch: None) -> None:
    if kind == ".weights.h5":
        pytest.importorskip("h5py")
    head = saved(tied, dtype)
    layouts = [None] if kind == ".weights.h5" else [None, "raivnlab", "linear", "dense", "flax"]
    for layout in layouts:
        assert main(convert("in.safetensors", f"out{kind}", *(("--to-layout", layout) if layout else ()))) == 0
        out = capsys.readouterr().out.splitlines()
        kind_of_head = "a tied head (MRL-E)" if tied else "an untied head (MRL)"
        assert out[0] == f"in.safetensors: layout 'mrl', prefix '': {kind_of_head} of 3 classes, dims {DIMS}, {dtype}"
        assert re.fullmatch(
            r"Logits of 16 seeded rows agree before and after: largest difference 0 within the bound "
            r"[\d.e-]+, and the heads bit for bit\.",
            out[2],
        )
        found, nesting = mrl.read_head(f"out{kind}", NESTING)
        assert_same(found, head)
        again = ("--dims", DIMS) if tied and (kind != ".safetensors" or layout) else ()
        assert main(convert(f"out{kind}", "back.safetensors", *again)) == 0
        back = mrl.load_head("back.safetensors")
        assert_same(back.head, head)
        assert nesting == NESTING and back.nesting.dims == NESTING.dims
        capsys.readouterr()
    if kind == ".safetensors":
        assert main(convert("in.safetensors", "out.safetensors")) == 0
        assert mrl.load_head("out.safetensors").metadata == {"run": "7"}
        assert mrl.load_head("out.safetensors").nesting == NESTING


KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = sys.argv[1]
import keras, numpy as np
import mrl
from mrl.cli import main
z = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
nesting = mrl.Nesting((2, 5))
for tied in (True, False):
    head = mrl.init_head(nesting, 3, tied=tied, backend="numpy", seed=7)
    mrl.save_head("in.safetensors", head, nesting)
    assert main(["convert", "in.safetensors", "out.keras"]) == 0
    model = keras.models.load_model("out.keras")
    logits = model(z)
    last = logits if tied else logits[-1]
    expected = mrl.spec.nested_logits(z, head, nesting)[-1]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(last), expected, 1e-5, 1e-5)
    if tied:
        plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        assert main(["convert", "in.safetensors", "out.weights.h5"]) == 0
        plain.load_weights("out.weights.h5")
        np.testing.assert_array_equal(plain.get_weights()[0], head.weight.T)
    model.set_weights([2 * w for w in model.get_weights()])
    model.save("changed.keras")
    model.save_weights("changed.weights.h5")
    for name in ("changed.keras", "changed.weights.h5"):
        found, _ = mrl.read_head(name, nesting)
        np.testing.assert_array_equal(found[0][-1], 2 * head[0][-1])
        assert type(found) is type(head)
print("done")
"""


def test_models_of_keras(tmp_path, framework_name: str) -> None:
    """In a fresh process, because Keras has one backend for all of it."""
    pytest.importorskip("keras"), pytest.importorskip("h5py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERAS, framework_name],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


def test_what_the_papers_code_wrote(saved, capsys, backend_torch: None) -> None:
    import torch

    head = mrl.convert(saved(False), "torch")
    torch.save({"epoch": 3, "model": mrl.write_head(head, NESTING, layout="raivnlab", prefix="module.fc")}, "r50.pth")
    assert main(convert("r50.pth", "out.npz")) == 0
    assert "r50.pth: layout 'raivnlab', prefix 'model.module.fc.': an untied head" in capsys.readouterr().out
    assert_same(mrl.read_head("out.npz")[0], mrl.convert(head, "numpy"))
    torch.save(head, "head.pt")  # the head itself, whose class is none of PyTorch's
    assert_same(mrl.read_head("head.pt")[0], mrl.convert(head, "numpy"))


def test_types_that_torch_load_may_be_told_of(saved, backend_torch: None) -> None:
    """Under ``weights_only=True`` the public classes are all that it takes."""
    import torch

    policy = mrl.CascadePolicy((0.9,), NESTING.dims)
    tree = {
        "heads": [mrl.convert(saved(tied), "torch") for tied in (True, False)],
        "nesting": NESTING,
        "policy": policy,
    }
    torch.save(tree, "all.pt")
    with torch.serialization.safe_globals([mrl.TiedHead, mrl.NestedHead, mrl.Nesting, mrl.CascadePolicy]):
        loaded = torch.load("all.pt", weights_only=True)
    assert loaded["nesting"] == NESTING and loaded["policy"] == policy
    for found, tied in zip(loaded["heads"], (True, False), strict=True):
        assert_same(mrl.convert(found, "numpy"), head_of("float32", tied, True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.safetensors", "out.txt"), "OUT: expected a name that ends in one of"),
        (("in.txt", "out.npz"), "IN: expected a name that ends in one of"),
        (("none.npz", "out.npz"), "No such file"),
        (("bad.npz", "out.npz"), "path: bad.npz: expected a whole zip archive"),
        (("bad.npz", "/no/folder/out.npz"), "path: bad.npz: "),
        (("in.safetensors", "no/out.npz"), "No such file"),
        (("in.safetensors", "out.npz", "--from-layout", "keras"), "--from-layout: expected one of .* got 'keras'"),
        (("in.safetensors", "out.npz", "--to-layout", "keras"), "--to-layout: expected one of .* got 'keras'"),
        (("in.safetensors", "out.keras", "--to-layout", "mrl"), "--to-layout: expected 'dense'"),
        (("in.safetensors", "out.npz", "--dims", "5,2"), "--dims: expected growing positive integers"),
        (("in.safetensors", "out.npz", "--dims", "a"), "--dims: expected growing positive integers"),
        (("in.safetensors", "out.npz", "--dims", "2,9"), r"head.weight: expected shape"),
        (("tied.npz", "out.npz"), "nesting: expected the granularities of a tied head"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(saved, capsys, arguments: tuple, message: str) -> None:
    head = saved(True)
    np.savez("tied.npz", **mrl.write_head(head, NESTING, layout="linear"))
    with open("bad.npz", "wb") as stream:
        stream.write(b"bad")
    before = sorted(os.listdir())
    assert main(convert(*arguments)) == 2
    printed = capsys.readouterr()
    assert re.match(f"mrl convert: .*{message}", printed.err) and printed.err.count("\n") == 1 and not printed.out
    assert sorted(os.listdir()) == before


def test_what_arrives_changed_is_not_kept(saved, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(False)

    write = command.write_npz

    def spoil(stream, arrays) -> None:
        write(stream, {name: array * np.float32(1 + 1e-6) for name, array in arrays.items()})

    monkeypatch.setattr(command, "write_npz", spoil)
    assert main(convert("in.safetensors", "out.npz")) == 2
    assert "gives other logits" in capsys.readouterr().err
    assert os.listdir() == ["in.safetensors"]
