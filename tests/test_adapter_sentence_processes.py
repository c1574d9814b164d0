"""``mrl.adapters.sentence_transformers`` under DDP: the losses and gradients of theirs, and draws that ranks share."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "adapter_sentence_worker.py"
SECONDS = 540  # a hung process ends; a busy machine does not


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


def test_two_processes_have_their_losses_and_gradients_and_draws(tmp_path):
    import adapter_sentence_worker as one
    import torch
    from test_adapter_sentence_losses import assert_same

    first, second = outcomes(tmp_path)
    for name, (_, joint, _) in one.KINDS.items():
        for rank in (first, second):
            assert_same(rank[name, True], rank[name, False])
        if joint:  # of both ranks, and what DDP makes of their gradients
            loss, gradients = one.one_step(one.MatryoshkaLoss, name, slice(None))
            torch.testing.assert_close((first[name, True][0] + second[name, True][0]) / 2, loss)
            assert_same((loss, first[name, True][1]), (loss, gradients))
    first, second = first["trained"], second["trained"]
    assert first["drawn"] == second["drawn"] and first["step"] == second["step"] == len(first["drawn"]) == 6
    assert len({dim for (dim,) in first["drawn"]}) > 1
    assert all(value.equal(second["weights"][name]) for name, value in first["weights"].items())


def outcomes(folder):
    """What each of two processes saved."""
    import torch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    logs = [(folder / f"{rank}.log").open("w") for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=logs[rank],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        ended = [process.wait(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    assert ended == [0, 0], "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(2))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
