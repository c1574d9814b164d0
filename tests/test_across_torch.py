"""``across`` and ``classes_across`` in PyTorch: processes that share a batch, or a head, are as one that has it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "across_torch_worker.py"
SECONDS = 540  # a hung process ends; a busy machine does not


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What each of several processes came to."""
    import torch

    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    command = [sys.executable, str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], stderr=subprocess.PIPE, env=environment)
        for rank in range(world)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def test_every_gradient_is_that_of_one_device_with_the_joint_batch(ranks):
    import across_torch_worker as one
    import torch

    # The candidates of all devices are the positives in order, and then the negatives: as for one.
    for place, expected in enumerate(one.joint()):
        losses = torch.stack([found["joint"][place]["loss"] for found in ranks])
        torch.testing.assert_close(losses.mean(), expected.pop("loss"))
        for found in ranks:
            ours = {name: x for name, x in found["joint"][place].items() if name != "loss"}
            assert list(ours) == list(expected)
            for name, gradient in ours.items():
                assert expected[name].any()
                torch.testing.assert_close(gradient, expected[name], msg=f"case {place}: {name}")


def test_a_head_by_classes_is_one_head(ranks):
    import across_torch_worker as one
    import torch

    whole, world = list(one.sharded(0, 1)), len(ranks)
    for rank, found in enumerate(ranks):
        own = slice(rank * one.CLASSES // world, (rank + 1) * one.CLASSES // world)
        for ours, expected in zip(found["sharded"], whole, strict=True):
            torch.testing.assert_close(ours["loss"], expected["loss"])
            torch.testing.assert_close(ours["level"], expected["level"], equal_nan=True)
            dz, *leaves = expected["gradients"]
            for x, y in zip(ours["gradients"], [dz, *(leaf[own] for leaf in leaves)], strict=True):
                torch.testing.assert_close(x, y)


def test_ranks_that_do_not_fit_together_all_say_so(ranks):
    for found in ranks:
        rows, classes, kind = found["refused"]
        assert "across: expected arrays of the same shapes on every device" in rows
        assert f"[(3, 5), (3, 5)] on rank {len(ranks) - 1}" in rows or f"[(3, 5)] on rank {len(ranks) - 1}" in rows
        assert "classes_across: expected arrays of the same shapes" in classes
        assert "across: expected True or a torch.distributed.ProcessGroup, got str" in kind


def test_a_head_that_shards_itself_is_refused_with_what_to_pass(ranks):
    import across_torch_worker as one
    import torch

    import mrl

    head, labels = mrl.TiedHead(torch.ones(one.CLASSES, 5)), torch.zeros(2, dtype=torch.long)
    whole = mrl.nested_cross_entropy(torch.ones(2, 5), head, labels, one.NESTING).total
    for found in ranks:
        message, total = found["distributed"]
        assert "nested_cross_entropy: the fused form works in place, got a DTensor placed (Shard(dim=0),)" in message
        assert "classes_across=mesh.get_group()" in message
        torch.testing.assert_close(total, whole)


def test_ranks_sample_the_same_granularities(ranks):
    for found in ranks[1:]:
        assert found["sampled"] == ranks[0]["sampled"]


def test_without_processes_across_is_refused():
    import torch

    import mrl

    z = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"across: expected torch\.distributed to be initialised"):
        mrl.nested_contrastive(z, z, mrl.Nesting((2, 4)), across=True)
