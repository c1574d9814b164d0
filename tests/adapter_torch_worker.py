"""One of several processes that train one head, started by ``test_adapter_torch_processes.py``.

``python adapter_torch_worker.py RANK WORLD KIND FOLDER`` writes the gradients that it ends with to ``FOLDER``.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mrl.adapters.torch import MatryoshkaHead
from torch import nn

import mrl

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, CLASSES, IGNORED = 12, 7, 4, -100


class Model(nn.Module):
    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, NESTING.width)
        self.head = MatryoshkaHead(NESTING, CLASSES, tied=tied)

    def forward(self, x, labels, **options):
        return self.head(self.encoder(x), labels, **options).total


def batch():
    """The joint batch; its halves have different numbers of labels in use."""
    torch.manual_seed(1)
    labels = torch.randint(0, CLASSES, (ROWS,))
    labels[[0, 1, 4, 8]] = IGNORED
    return torch.randn(ROWS, WIDTH), labels


def losses_of(model, x, labels, world, whole):
    """Of equal halves, and of halves whose labels in use are counted all over: ``whole`` of them."""
    yield model(x, labels.clamp(min=0))
    # Engines average over processes what each of them divides.
    yield model(x, labels, ignore_index=IGNORED, num_items=torch.tensor(whole / world))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        found[name.removeprefix("module.")] = gradient.clone()
    return found


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (model.encoder, model.head, model):
        fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(model.head, "predict")
    return model


def work(rank, world, kind, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    engine = {"ddp": nn.parallel.DistributedDataParallel, "fsdp": sharded}[kind]
    x, labels = batch()
    half = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    found = []
    for tied in (False, True):
        model = engine(Model(tied))
        whole = int((labels != IGNORED).sum())
        for loss in losses_of(model, x[half], labels[half], world, whole):
            found.append(gradients(model, loss))
        if kind == "fsdp":
            plain = Model(tied)
            assert model.head.predict(x[:, :5], 3).equal(plain.head.predict(x[:, :5], 3))
            assert model.head.loss(x[:, :5], labels, ignore_index=IGNORED).total.equal(
                plain.head(x[:, :5], labels, ignore_index=IGNORED).total
            )
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
