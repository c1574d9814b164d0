"""Adaptive retrieval with the demo's models: the test images search among those that were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..porting import available_backends, convert
from ..retrieval.metrics import mean_average_precision_at_k, recall_at_k
from ..retrieval.search import funnel_search, search
from .data import Dataset
from .evaluate import Evaluation
from .settings import DIMS

K = 10
SHORTLIST = 10 * K
WAYS = {
    "exact": ((DIMS[-1],), (K,)),
    "two stages": ((DIMS[2], DIMS[-1]), (SHORTLIST, K)),
    "funnel": ((DIMS[1], DIMS[3], DIMS[-1]), (2 * SHORTLIST, SHORTLIST // 2, K)),
}
"""Dimensions and shortlists of each way to search with all dimensions in the end."""

Precisions = dict[str, list[dict[str, float]]]
"""Family to what each granularity alone finds."""


class Way(NamedTuple):
    """One way to search: ``map`` is mAP@k by labels, ``recall`` the share of an exact search's rows that it finds."""

    name: str
    dims: tuple[int, ...]
    shortlists: tuple[int, ...]
    map: float
    recall: float
    multiply_adds: int


class Agreement(NamedTuple):
    """The share of queries for which a framework finds the rows that the one that trained found, in their order."""

    backend: str
    share: float


def precisions(evaluations: Mapping[str, Sequence[Evaluation]], data: Dataset, backend: str) -> Precisions:
    """mAP@k of an exact search with each granularity, and its standard error over the queries."""
    found: Precisions = {}
    for family, by_dim in evaluations.items():
        found[family] = []
        for m, evaluation in zip(DIMS, by_dim, strict=True):
            queries, keys = convert((evaluation.queries, evaluation.keys), backend)
            indices = search(queries, keys, k=K, dim=m).indices
            each = _average_precisions(indices, data)
            error = float(each.std() / np.sqrt(each.size))
            found[family].append({"dim": m, "map": float(each.mean()), "standard_error": error})
    return found


def ways(evaluation: Evaluation, data: Dataset, backend: str) -> list[Way]:
    """Exact search, two stages and a funnel, by what they find and what they cost."""
    queries, keys = convert((evaluation.queries, evaluation.keys), backend)
    exact, found = None, []
    for name, (dims, shortlists) in WAYS.items():
        shortlists = tuple(min(count, len(evaluation.keys)) for count in shortlists)
        indices = funnel_search(queries, keys, dims=dims, shortlists=shortlists).indices
        exact = indices if exact is None else exact
        cost = sum(m * rows for m, rows in zip(dims, (len(evaluation.keys), *shortlists), strict=False))
        precision = float(_average_precisions(indices, data).mean())
        found.append(Way(name, dims, shortlists, precision, recall_at_k(indices, exact, shortlists[-1]), cost))
    return found


def agreements(evaluation: Evaluation, backend: str) -> list[Agreement]:
    """The funnel in every installed framework, beside the one that trained."""
    dims, shortlists = WAYS["funnel"]
    shortlists = tuple(min(count, len(evaluation.keys)) for count in shortlists)
    names = [info.name for info in available_backends() if info.name in ("numpy", "torch", "jax", "tensorflow")]
    indices = {}
    for name in names:
        queries, keys = convert((evaluation.queries, evaluation.keys), name)
        indices[name] = convert(funnel_search(queries, keys, dims=dims, shortlists=shortlists).indices, "numpy")
    return [Agreement(name, float((indices[name] == indices[backend]).all(-1).mean())) for name in names]


def precision_table(found: Precisions) -> str:
    """Granularity x family: mAP@k in percent with its standard error."""
    lines = [f"{'dims':>6}" + "".join(f"{family:>16}" for family in found)]
    for g, m in enumerate(DIMS):
        points = [points[g] for points in found.values()]
        row = "".join(f"{f'''{100 * p['map']:.1f} ± {100 * p['standard_error']:.1f}''':>16}" for p in points)
        lines.append(f"{m:>6}{row}")
    return "\n".join(lines)


def way_table(found: Sequence[Way]) -> str:
    """What each way finds, beside the multiply-adds of one query."""
    lines = [
        f"{'way':12}{'stages':26}{f'mAP@{K}, %':>11}{f'recall@{K}, %':>14}{'multiply-adds':>15}{'of exact, %':>13}"
    ]
    for way in found:
        stages = " > ".join(f"{m}: {count}" for m, count in zip(way.dims, way.shortlists, strict=True))
        cost = f"{way.multiply_adds:>15}{100 * way.multiply_adds / found[0].multiply_adds:>13.1f}"
        lines.append(f"{way.name:12}{stages:26}{100 * way.map:>11.1f}{100 * way.recall:>14.1f}{cost}")
    return "\n".join(lines)


def sentence(found: Sequence[Agreement]) -> str:
    """In how many queries the frameworks agree."""
    parts = [f"{agreement.backend} {100 * agreement.share:.4g} %" for agreement in found]
    return f"The funnel finds the same rows in the same order, of all queries: {', '.join(parts)}."


def to_dict(precision: Precisions, found: Sequence[Way], agreed: Sequence[Agreement]) -> dict[str, Any]:
    """As plain values."""
    return {
        "k": K,
        "map": precision,
        "ways": [way._asdict() for way in found],
        "agreement": {agreement.backend: agreement.share for agreement in agreed},
    }


def _average_precisions(indices: Any, data: Dataset) -> NDArray[np.float64]:
    labels = data.test.labels, data.train.labels
    return np.asarray(mean_average_precision_at_k(indices, labels, K, reduction="none"))
