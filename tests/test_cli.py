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
