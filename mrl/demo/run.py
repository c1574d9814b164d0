"""``mrl demo``: train, compare, carry over, report."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from ..dispatch import backend_named
from ..files import write_atomically
from ..nesting import Nesting
from ..porting import convert, init_head
from ..report.command import write_together
from ..report.measure import report as measure_report
from . import cascade, report, retrieval
from .data import Dataset, load
from .encoder import init_encoder
from .evaluate import Evaluation, Model, evaluate
from .port import check_ports
from .settings import DIMS, SETTINGS, Settings

FRAMEWORKS = ("torch", "jax", "tensorflow")


def run_demo(
    *,
    backend: str,
    data: str,
    data_dir: Path | None,
    out: Path,
    seed: int,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Train in ``backend``, print what came of it, and write figures, numbers and a report.

    Returns:
        What was written as JSON.

    Raises:
        ValueError: an unknown backend or data set, or files that are not what they should be.
        ImportError: a package is missing; the message says what to install.
        RuntimeError: a framework's logits are further from the specification than rounding explains.
    """
    if backend not in FRAMEWORKS:
        raise ValueError(f"--backend: expected one of {FRAMEWORKS}, which can train, got {backend!r}; choose one")
    if seed < 0:
        raise ValueError(f"--seed: expected an integer of at least 0, got {seed}; choose another")
    backend_named(backend)  # says what to install
    if not find_spec("matplotlib"):
        raise ImportError("the figures need matplotlib; run pip install 'mrl[demo]'")
    dataset = load(data, data_dir, seed)
    settings = replace(SETTINGS[data], seed=seed)
    settings = settings if epochs is None else replace(settings, epochs=epochs)
    try:  # before minutes of training
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"--out: expected a folder to write to, got {out} ({error}); choose another") from error
    print(f"{data}: {len(dataset.train.labels)} images to train on, {len(dataset.held_out.labels)} held out, "
          f"{len(dataset.test.labels)} to test on; training in {backend}")  # fmt: skip

    models, seconds = train_all(backend, dataset, settings)
    fixed = [evaluate(models[f"FF {m}"], dataset) for m in DIMS]
    nested = {family: evaluate(models[family], dataset) for family in ("MRL", "MRL-E")}
    results: report.Results = {
        measure: {
            "FF": np.concatenate([getattr(e, measure) for e in fixed]),
            **{family: getattr(e, measure) for family, e in nested.items()},
        }
        for measure in ("linear", "neighbour")
    }
    said = report.sentences(results)
    print(f"\nTest accuracy in %, ± one standard error, one seed:\n{report.table(results)}\n")
    print("\n".join(said))
    cascades = {family: cascade.fit_all(e, dataset, models[family].nesting) for family, e in nested.items()}
    needs = [cascade.sentence(family, by["accuracy"]) for family, by in cascades.items()]
    print(
        f"\nCascades, fitted on the held-out images, on the test images [95 % interval]:\n{cascade.table(cascades)}\n"
    )
    print("\n".join(needs))
    evaluations = {"FF": fixed, **{family: [e] * len(DIMS) for family, e in nested.items()}}
    precision = retrieval.precisions(evaluations, dataset, backend)
    ways = retrieval.ways(nested["MRL"], dataset, backend)
    agreed = retrieval.agreements(nested["MRL"], backend)
    print(
        f"\nRetrieval of training images by test images, mAP@{retrieval.K} in %, ± one standard error:\n"
        f"{retrieval.precision_table(precision)}\n\nMRL, shortlists with few dimensions put in order with more:\n"
        f"{retrieval.way_table(ways)}\n{retrieval.sentence(agreed)}"
    )
    ports = check_ports({family: models[family] for family in nested}, dataset.test.images)
    print(
        "\nThe trained models in every installed framework, against the float64 specification:\n"
        + report.port_table(ports)
    )

    content = {
        "versions": {name: version(name) for name in ("mrl", "numpy", backend)},
        "backend": backend,
        "data": data,
        "seed": seed,
        "settings": asdict(settings),
        "dims": list(DIMS),
        "examples": {name: len(getattr(dataset, name).labels) for name in ("train", "held_out", "test")},
        "accuracy": report.accuracies(results),
        "comparison": said,
        "cascades": cascade.to_dict(cascades),
        "dimensions_needed": needs,
        "retrieval": retrieval.to_dict(precision, ways, agreed),
        "ports": [{**port._asdict(), "holds": port.share <= 1} for port in ports],
        "seconds": seconds,
    }
    write_atomically(out / "demo.json", json.dumps(content, indent=1, allow_nan=False))
    report.figure(results, f"{data}, {backend}, one seed", out / "demo.png")
    pages = report_pages(nested["MRL"], dataset, f"MRL on {data}, {backend}, one seed", seed)
    write_together(out, pages)
    title = f"MRL cascades, {data}, {backend}, one seed"
    cascade.figure(nested["MRL"], dataset, cascades["MRL"], title, out / "cascade.png")
    names = ("demo.json", "demo.png", "cascade.png", *pages)
    print(f"\nwrote {', '.join(str(out / name) for name in names)}")
    for port in ports:
        if not port.share <= 1:
            raise RuntimeError(
                f"{port.model} in {port.backend}: expected logits within {port.bound:.3g} of the specification, got "
                f"{port.difference:.3g}; run mrl verify --backend {port.backend}"
            )
    return content


def report_pages(model: Evaluation, data: Dataset, title: str, seed: int) -> dict[str, str]:
    """The report of the embeddings: of images that were trained on, asked by test images."""
    found = measure_report(
        model.keys,
        labels=data.train.labels,
        queries=model.queries,
        query_labels=data.test.labels,
        dims=DIMS,
        seed=seed,
        title=title,
    )
    print("\nThe report of MRL's embeddings:\n" + "\n".join(f"- {sentence}" for sentence in found.verdict))
    return {"report.html": found.to_html(), "report.json": found.to_json(), "report.md": found.to_markdown()}


def train_all(backend: str, data: Dataset, settings: Settings) -> tuple[dict[str, Model], dict[str, float]]:
    """``"FF m"`` for every granularity, ``"MRL"`` and ``"MRL-E"``, as NumPy arrays; and the seconds each took."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f"the progress bars need tqdm ({error}); run pip install 'mrl[demo]'") from error
    train = import_module(f".train_{backend}", __package__).train
    plans = {f"FF {m}": (Nesting((m,)), True) for m in DIMS}
    plans |= {"MRL": (Nesting(DIMS), False), "MRL-E": (Nesting(DIMS), True)}
    models, seconds = {}, {}
    for name, (nesting, tied) in plans.items():
        sizes = (data.train.images.shape[1], settings.hidden, nesting.width)
        encoder = init_encoder(sizes, settings.seed)
        head = init_head(nesting, data.classes, tied=tied, backend="numpy", seed=settings.seed + 1)
        start = time.perf_counter()
        with tqdm(total=settings.steps(len(data.train.labels)), desc=f"{name:6}", unit="step", file=sys.stderr) as bar:
            encoder, head = train(encoder, head, data.train, nesting, settings, bar.update)
        seconds[name] = time.perf_counter() - start
        models[name] = Model(convert(encoder, "numpy"), convert(head, "numpy"), nesting)
    return models, seconds
