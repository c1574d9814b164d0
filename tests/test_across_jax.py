"""Batches over eight devices in JAX: mapped, or placed; and heads shared out by classes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "across_jax_worker.py"


@pytest.mark.parametrize("part", ["mapped", "classified", "placed", "by_classes", "refused"])
def test_eight_devices_are_as_one(part, backend_jax):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, str(WORKER), part], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
