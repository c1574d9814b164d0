"""Batches over the replicas of a strategy of TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "across_tensorflow_worker.py"


def test_two_replicas_are_as_one_device(backend_tensorflow):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, str(WORKER)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
