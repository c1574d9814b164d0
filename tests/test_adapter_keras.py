"""``mrl.adapters.keras`` under each backend of Keras, which decides on one per process: all checks in one.

What is checked is in adapter_keras_parts.py and adapter_keras_model.py; a second process loads what one saved.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("adapter_keras_worker.py")
FILES = [WORKER.with_name(f"adapter_keras_{name}.py") for name in ("parts", "model")]
FUNCTIONS = [
    node.name for path in FILES for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
]


def run(backend, folder, *options):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # dozens of small steps, each run a few times
    command = [sys.executable, str(WORKER), str(folder), *options]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_check(framework_name, tmp_path):
    found = run(framework_name, tmp_path) | run(framework_name, tmp_path, "--load")
    expected = [name for name in FUNCTIONS if name.startswith(("check_", "load_", f"{framework_name}_"))]
    assert sorted(found) == sorted(expected)
    assert len(found) > 15
    failed = {name: error for name, error in found.items() if error}
    assert not failed, "\n".join(f"{name}\n{error}" for name, error in failed.items())
