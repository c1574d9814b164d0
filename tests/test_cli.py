"""The command line: what it answers, refuses and never claims."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mrl.cli import main


def test_it_is_a_module_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mrl", "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == f"mrl {metadata.version('mrl')}\n"


def test_demo_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str], backend_torch: None) -> None:
    (tmp_path / "file").touch()
    for arguments, message in (
        (["--out", str(tmp_path / "file")], "--out: expected a folder to write to, got .*file"),
        (["--out", "/proc/sys"], "--out: expected a folder to write to, got /proc/sys"),
        (["--seed", "-1"], "--seed: expected an integer of at least 0, got -1"),
    ):
        assert main(["demo", *arguments]) == 2
        assert re.search(f"mrl demo: {message}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dtype", "flaot32"), "--dtype: expected dtypes of numpy, .* got .*flaot32"),
        (("--dtype", "int8", "--backend", "numpy"), "--dtype: expected dtypes of numpy, .* got .*int8"),
        (("--examples", "0"), "--examples: expected an integer of at least 1, got 0"),
        (("--backend", "mxnet"), "--backend: expected one of .* got 'mxnet'"),
        (("--backend", "numpy", "--device", "cuda"), r"--device: expected a device such as \('cpu',\), got 'cuda'"),
    ],
)
def test_verify_refuses_what_would_prove_nothing(arguments, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    printed = capsys.readouterr()
    assert "Proved" not in printed.out
    assert re.search(message, printed.err)


LOSS = """
import mrl
import numpy as np


def right(z, head, labels, nesting, **options):
    assert isinstance(z, np.ndarray)
    return mrl.nested_cross_entropy(z, head, labels, nesting, **options).total


def mean_for_sum(z, head, labels, nesting):
    return right(z, head, labels, nesting) / len(nesting)
"""


def test_verify_proves_a_loss_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LOSS, encoding="utf-8")

    def verify(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "mrl", "verify", "--examples", "20", "--loss", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    status, printed, _ = verify("mine:right", "--option", "reduction", "--dtype", "float16", "--dtype", "float32")
    assert status == 0
    assert re.search(r"right  float32  20 examples, values alone: worst error 0\.\d+ of its bound\nProved\.", printed)
    status, printed, _ = verify("mine:mean_for_sum", "--seed", "0")
    assert status == 1 and "Not proved." in printed
    assert "this mistake would: the mean over levels for their sum." in printed
    assert "from mine import mean_for_sum" in printed
    assert verify("mine:missing")[0] == 2 and "expected mine to have 'missing'" in verify("mine:missing")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "mine"), "--loss: expected module:function, got 'mine'"),
        (("--loss", "no_such_module:f"), "No module named 'no_such_module'"),
        (
            ("--loss", "mrl:truncate", "--backend", "numpy"),
            r"loss: expected to call truncate\(z, head, labels, nesting\)",
        ),
        (("--head", "tied"), "--head: expected --loss beside it"),
    ],
)
def test_verify_refuses_what_is_no_loss(arguments, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
