"""One of two processes that train one model, started by ``test_adapter_sentence_processes.py``.

``python adapter_sentence_worker.py RANK WORLD FOLDER`` writes the losses and gradients that it ends with.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from adapter_sentence_cases import CACHED, DIMS, RANKING, SYMMETRIC, WEIGHTS, MatryoshkaLoss, gradients, losses
from adapter_sentence_cases import small_model as model_of

JOINT = (
    ["a cat sat on the mat", "two dogs ran away", "the sky is blue today", "rain fell on the town"],
    ["the cat was sitting", "dogs run", "blue sky above us all", "it rained"],
    ["a train is late", "bread", "green grass grows in spring", "snow"],
)
SCORES = torch.tensor([0.1, 0.9, 0.5, 0.3], dtype=torch.float64)
GATHER = {"gather_across_devices": True}
KINDS = {  # name: (what makes the loss, whether it is that of the joint batch, labels)
    "gathered": (lambda m: RANKING(m, **GATHER), True, None),
    "gathered-symmetric": (lambda m: RANKING(m, scale=5.0, **GATHER, **SYMMETRIC), True, None),
    "gathered-cached": (lambda m: CACHED(m, mini_batch_size=1, **GATHER), True, None),
    "local": (RANKING, False, None),
    "local-cached": (lambda m: CACHED(m, mini_batch_size=1), False, None),
    "pairs": (losses.CoSENTLoss, False, SCORES),
}


def part(model, rows):
    return [model.preprocess(texts[rows]) for texts in JOINT]


def one_step(kind, name, rows, wrap=lambda model: model):
    make, _, labels = KINDS[name]
    model = model_of().double()
    loss = kind(model, make(model), DIMS, WEIGHTS)
    loss.model = loss.loss.model = wrapped = wrap(model)
    if hasattr(loss.loss, "loss"):
        loss.loss.loss.model = wrapped
    value = loss(part(model, rows)[: 2 if labels is not None else 3], None if labels is None else labels[rows])
    value.backward()
    return value.detach(), gradients(model)


def compare(rank, world):
    from torch.nn.parallel import DistributedDataParallel

    count = len(SCORES) // world
    rows = slice(rank * count, (rank + 1) * count)
    return {
        (name, kind is MatryoshkaLoss): one_step(kind, name, rows, DistributedDataParallel)
        for name in KINDS
        for kind in (MatryoshkaLoss, losses.MatryoshkaLoss)
    }


def train(folder):
    """By their trainer, with draws: what it logs, the dims of each step and the weights that come out."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    drawn = []

    class Watched(MatryoshkaLoss):
        def _levels(self):
            levels = super()._levels()
            drawn.append([dim for dim, _ in levels])
            return levels

    model = model_of()
    loss = Watched(model, RANKING(model, **GATHER), DIMS, n_dims_per_step=1)
    args = SentenceTransformerTrainingArguments(
        str(Path(folder) / "out"),
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo",
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    data = Dataset.from_dict({"anchor": JOINT[0] * 6, "positive": JOINT[1] * 6})
    trainer = SentenceTransformerTrainer(model, args, train_dataset=data, loss=loss)
    trainer.train()
    assert type(loss.model).__name__ == type(loss.loss.model).__name__ == "DistributedDataParallel"
    return {"drawn": drawn, "weights": model.state_dict(), "step": loss.step}


def work(rank, world, folder):
    torch.set_num_threads(1)
    model_of()  # only the first of several processes would write it to a file
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = compare(rank, world)
    found["trained"] = train(folder)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
