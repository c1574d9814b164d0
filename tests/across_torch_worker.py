"""One of several processes with a batch together, started by ``test_across_torch.py``.

``python across_torch_worker.py RANK WORLD FOLDER`` writes what it ends with to ``FOLDER``.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mrl

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, CLASSES, IGNORED = 8, 7, 12, -100
CASES = [
    {"symmetric": symmetric, "fused": fused, "negatives": negatives, "exclude": exclude}
    for symmetric in (False, True)
    for fused in (True, False)
    for negatives, exclude in ((False, False), (True, True))
]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, NESTING.width, dtype=torch.float64)
        self.scale = nn.Parameter(torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64).log())

    def forward(self, x, y, others, exclude, case, across):
        embed = self.encoder
        return mrl.nested_contrastive(
            embed(x),
            embed(y),
            NESTING,
            negatives=embed(others) if case["negatives"] else None,
            exclude=exclude if case["exclude"] else None,
            temperature=self.scale.exp(),
            symmetric=case["symmetric"],
            fused=case["fused"],
            reduction=case.get("reduction", "mean"),
            across=across,
        ).total


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(WIDTH, NESTING.width, dtype=torch.float64)
        self.head = nn.Linear(NESTING.width, CLASSES, dtype=torch.float64)

    def forward(self, x, labels, **options):
        head = mrl.TiedHead(self.head.weight, self.head.bias)
        return mrl.nested_cross_entropy(self.encoder(x), head, labels, NESTING, ignore_index=IGNORED, **options).total


def batch():
    """The joint batch: of every rank its rows, and the candidates of all in their order."""
    torch.manual_seed(1)
    x, y = torch.randn(2, ROWS, WIDTH, dtype=torch.float64)
    others = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    exclude = (torch.rand(ROWS, 2 * ROWS) < 0.2) & ~torch.eye(ROWS, 2 * ROWS, dtype=torch.bool)
    labels = torch.randint(0, CLASSES, (ROWS,))
    labels[[0, 1, 2, 5]] = IGNORED
    weights = torch.rand(ROWS, dtype=torch.float64)
    return x, y, others, exclude, labels, weights


def outcome(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}
    return {"loss": loss.detach().clone(), **found}


def joint(part=slice(None), world=1, across=None, wrap=lambda model: model):
    """What every case comes to, of all rows or of a rank's ``part``."""
    x, y, others, exclude, labels, weights = batch()
    model, classifier = wrap(Model()), wrap(Classifier())
    for case in CASES:
        yield outcome(model, model(x[part], y[part], others[part], exclude[part], case, across))
    yield outcome(
        model, model(x[part], y[part], others[part], None, {**CASES[0], "exclude": False, "reduction": "sum"}, across)
    )
    for options in ({}, {"reduction": "sum"}, {"fused": False}, {"sample_weight": weights[part]}):
        yield outcome(classifier, classifier(x[part], labels[part], across=across, **options))


def sharded(rank, world, across=None):
    """A head by classes: its loss, the gradient of all embeddings, and of the classes that are here."""
    *_, labels, weights = batch()
    own = slice(rank * CLASSES // world, (rank + 1) * CLASSES // world)
    for tied in (True, False):
        torch.manual_seed(5)
        z = torch.randn(ROWS, NESTING.width, dtype=torch.float64, requires_grad=True)
        shapes = [NESTING.width] if tied else NESTING.dims
        matrices = [torch.randn(CLASSES, m, dtype=torch.float64)[own].requires_grad_() for m in shapes]
        biases = [torch.randn(CLASSES, dtype=torch.float64)[own].requires_grad_() for _ in shapes]
        head = mrl.TiedHead(matrices[0], biases[0]) if tied else mrl.NestedHead(tuple(matrices), tuple(biases))
        for options in (
            {},
            {"label_smoothing": 0.1, "ignore_index": IGNORED, "chunk_rows": 3},
            {"label_smoothing": 1.0, "reduction": "none", "ignore_index": IGNORED},
            {"sample_weight": weights, "level_weights": torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)},
        ):
            given = labels if "ignore_index" in options else labels.clamp(min=0)
            loss = mrl.nested_cross_entropy(z, head, given, NESTING, classes_across=across, **options)
            leaves = [z, *matrices, *biases]
            total = (loss.total * weights).sum() if loss.total.dim() else 3 * loss.total
            yield {
                "loss": loss.total.detach(),
                "level": loss.per_level,
                "gradients": torch.autograd.grad(total, leaves),
            }


def refusals(rank, world):
    """Messages where ranks do not fit together, and the collectives that still work after them."""
    z = torch.ones(2 + (rank == world - 1), 5)
    for call in (
        lambda: mrl.nested_contrastive(z, z, NESTING, across=True),
        lambda: mrl.nested_cross_entropy(
            torch.ones(2, 5), mrl.TiedHead(torch.ones(2 + rank, 5)), torch.zeros(2, dtype=torch.long), NESTING,
            classes_across=True,
        ),
        lambda: mrl.nested_contrastive(z, z, NESTING, across="data"),
    ):  # fmt: skip
        try:
            call()
        except (ValueError, TypeError) as error:
            yield str(error)


def distributed(world):
    """What is said of a head that shards itself."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    weight = distribute_tensor(torch.ones(CLASSES, 5), mesh, [Shard(0)])
    z, labels = torch.ones(2, 5), torch.zeros(2, dtype=torch.long)
    try:
        mrl.nested_cross_entropy(z, mrl.TiedHead(weight), labels, NESTING)
    except NotImplementedError as error:
        local = mrl.TiedHead(weight.to_local())
        loss = mrl.nested_cross_entropy(z, local, labels, NESTING, classes_across=mesh.get_group())
        return str(error), loss.total


def main(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    size = ROWS // world
    part = slice(rank * size, (rank + 1) * size)
    refused = list(refusals(rank, world))
    group = dist.new_group(list(range(world)))
    found = {
        "joint": list(joint(part, world, group, DistributedDataParallel)),
        "sharded": list(sharded(rank, world, True)),
        "refused": refused,
        "distributed": distributed(world),
        "sampled": [NESTING.sample(2, step=step, seed=7).dims for step in range(20)],
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
