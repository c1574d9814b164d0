"""``mrl.adapters.torch`` under DDP and FSDP2: two processes have the gradients of one with the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "adapter_torch_worker.py"
SECONDS = 540  # a hung process ends; a busy machine does not


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_are_one_with_the_joint_batch(kind, tmp_path):
    import adapter_torch_worker as one
    import torch

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER)]
    started = [
        subprocess.Popen([*command, str(rank), "2", kind, str(tmp_path)], stderr=subprocess.PIPE, env=environment)
        for rank in range(2)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    x, labels = one.batch()
    whole = int((labels != one.IGNORED).sum())
    expected = []
    for tied in (False, True):
        model = one.Model(tied)
        expected += [one.gradients(model, loss) for loss in one.losses_of(model, x, labels, 1, whole)]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(found) == len(expected) == 4
        for ours, joint in zip(found, expected, strict=True):
            assert list(ours) == list(joint)
            for name, gradient in ours.items():
                assert joint[name].any()
                torch.testing.assert_close(gradient, joint[name], msg=lambda text, name=name: f"{name}: {text}")
