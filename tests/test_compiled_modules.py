"""Modules with parameters, compiled and exported in processes where mrl has not been called before."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "compiled_checks.py"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(CHECKS), *arguments], cwd=tempfile.gettempdir(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("check", ["compiles_once", "exports"])
def test_modules_with_parameters(check: str, backend_torch: None) -> None:
    """Every function, whole and in one graph, whatever arrays mrl sees between two calls."""
    run("each", check)


def test_an_exported_program_is_loaded_where_mrl_was_never_called(tmp_path: Path, backend_torch: None) -> None:
    path = str(tmp_path / "program.pt2")
    assert run("save", path) == run("load", path)


def test_files_of_weights_only_hold_what_mrl_makes(tmp_path: Path, backend_torch: None) -> None:
    path = str(tmp_path / "values.pt")
    run("save_values", path)
    run("load_values", path)
    assert run("load_unregistered", path) == "UnpicklingError\n"
