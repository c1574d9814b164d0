"""A report, from its arguments to its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..cascade.curve import CurvePoint
from ..cascade.report import check_interval
from ..heads import Array
from ..retrieval.arguments import tracker
from . import arguments
from .arguments import Given
from .classes import heads_of, measure_classes, split
from .costs import costs_of
from .definitions import DEFINITIONS
from .findings import findings_of, usable_rows
from .named import Figures
from .neighbours import Queries, correlations, nearest, pools
from .planning import FIT_ROWS, POOL, plan_episodes, plan_parts, plan_sample
from .ranking import measure_rankings
from .resampling import Bootstrap
from .rows import rows_of
from .source import Rows, Scan, scan
from .stages import curve_of, plan_stages
from .values import METHODS, Report
from .verdict import verdict_of
from .ways import check_transforms, ways_of


@np.errstate(all="ignore")
def assemble(
    embeddings: Array,
    *,
    labels: Any,
    queries: Array | None,
    query_labels: Any,
    relevant: Any,
    dims: Sequence[int] | None,
    k: int,
    metric: str,
    price: float | None,
    sample: int | None,
    seed: int,
    confidence_level: float,
    backend: str | None,
    transforms: Mapping[str, Any] | None,
    progress: bool,
    title: str,
) -> Report:
    """Check, look at all rows, draw, search, measure, and say what it comes to."""
    k = checks.check_integer("k", k, at_least=1)
    level, seed = check_interval(confidence_level, seed)
    arguments.check_metric(metric)
    checks.check_flag("progress", progress)
    wanted = None if sample is None else checks.check_integer("sample", sample, at_least=1)
    price = arguments.check_number("price", price, "write what a gigabyte of memory costs")
    given_ways = check_transforms(transforms)
    if not isinstance(title, str):
        raise TypeError(f"title: expected text, got {type(title).__name__}; write a name")
    given = arguments.take(embeddings, labels, queries, query_labels, relevant, k, backend)
    sizes = arguments.check_sizes(dims, given.embeddings.shape[1])
    tracked = tracker(progress, "read")

    whole = scan(given.embeddings, tracked)
    of_queries = None if given.queries is None else scan(given.queries)
    kept = usable_rows("embeddings", whole)
    usable = len(given.embeddings) if kept is None else len(kept)
    among = usable if of_queries is None else int(of_queries.finite.sum())
    names = [*METHODS[:7], *given_ways]
    planned = plan_sample(among, usable, sizes, names, wanted)
    if planned.rows < usable:
        drawn = np.sort(
            np.random.default_rng([seed, 1]).choice(usable, min(usable, max(planned.rows, 2 * k)), replace=False)
        )
        kept = drawn if kept is None else kept[drawn]
        if given.relevant is not None:  # what is to be found has to be there
            wanted_rows = np.unique(given.relevant[given.relevant >= 0])
            kept = np.union1d(kept, wanted_rows[whole.finite[wanted_rows]])
    rows = Rows(given.embeddings, kept)
    least = k + (given.queries is None)
    if len(rows) < least:
        raise ValueError(f"embeddings: expected at least {least} finite rows for k={k}, got {len(rows)}; ask for fewer")
    codes = classes_left(given.labels, kept)
    if codes is not None:
        arguments.check_classes(len(np.unique(codes)))
    asked = draw_queries(given, of_queries, rows, codes, planned.queries, seed)

    rng = np.random.default_rng([seed, 2])
    fitting = np.sort(rng.choice(len(rows), min(len(rows), FIT_ROWS), replace=False))
    ways = ways_of(rows.take(fitting), metric, seed, given_ways)
    found = nearest(rows, asked, ways, sizes, k=k, place=given.place, track=tracker(progress, "search"))
    measured = measure_rankings(found, asked, codes, k)
    pool = pools(len(rows), asked.own, POOL, seed)
    for (method, m), tau in correlations(rows, asked, pool, ways, sizes).items():
        measured[method, m, "rank_correlation"] = np.where(asked.asked, tau, np.nan)
    curve: tuple[CurvePoint, ...] = ()
    counts = 0, 0
    if codes is not None:
        order = np.random.default_rng([seed, 3]).permutation(len(rows))
        counts = plan_parts(len(rows))
        positions = order[: counts[0]], order[counts[0] : sum(counts)]
        parts = split(rows, codes, positions)
        measured |= measure_classes(parts, ways, sizes, seed, plan_episodes(parts.classes))
        curve = curve_of(heads_of(parts, ways[0], sizes), parts.labels, sizes, level=level, seed=seed)
    bootstrap = Bootstrap(level, seed)
    funnel = plan_stages(rows, asked, sizes, k=k, metric=metric, place=given.place, bootstrap=bootstrap)

    figures, differences = rows_of(measured, sizes, bootstrap)
    places = list(dict.fromkeys(row[:2] for row in figures))
    costs = costs_of(places, given.embeddings.dtype.itemsize, price)
    findings = findings_of(
        whole,
        given.embeddings.shape[1],
        of_queries=of_queries,
        asked=int(asked.asked.sum()),
        among=among,
        what="rows" if given.queries is None else "given",
        searched=len(rows),
    )
    data = {
        "rows": len(given.embeddings),
        "rows_left_out": int((~whole.finite).sum()),
        "rows_searched": len(rows),
        "width": given.embeddings.shape[1],
        "dtype": given.embeddings.dtype.name,
        "metric": metric,
        "queries": int(asked.asked.sum()),
        "queries_given": None if given.queries is None else len(given.queries),
        "queries_left_out": 0 if of_queries is None else int((~of_queries.finite).sum()),
        "query_rows": None if given.queries is not None else positions_in(kept, asked.own),
        "labelled_queries": int((asked.labels >= 0).sum()) if codes is not None else 0,
        "classes": 0 if codes is None else given.classes,
        "rows_fitted": counts[0],
        "rows_held_out": counts[1],
        "duplicates": whole.repeated,
        "constant_dims": whole.constant.tolist(),
        "seed": seed,
        "sample": sample,
        "confidence_level": level,
        "price": price,
        "backend": given.place.backend,
        "definitions": {
            name: text for name, text in DEFINITIONS.items() if name in {n for r in figures for n in r[:3]}
        },
    }
    known = Figures(figures, differences, costs, sizes, k, data["queries"])
    verdict = verdict_of(known, findings, funnel, curve)
    return Report(figures, differences, k, sizes, verdict, findings, data, costs, funnel, curve, title)


def draw_queries(
    given: Given, of_queries: Scan | None, rows: Rows, codes: NDArray[np.int64] | None, count: int, seed: int
) -> Queries:
    """The queries that are asked: of those given, or rows; and rows for their labels, where queries have none."""
    rng = np.random.default_rng([seed, 0])
    if given.queries is None or of_queries is None:
        own = np.sort(rng.choice(len(rows), min(count, len(rows)), replace=False))
        nobody = np.full(len(own), -1)
        return Queries(rows.take(own), own, np.ones(len(own), bool), nobody if codes is None else codes[own], None)
    usable = usable_rows("queries", of_queries)
    usable = np.arange(len(given.queries)) if usable is None else usable
    chosen = usable[np.sort(rng.choice(len(usable), min(count, len(usable)), replace=False))]
    vectors = np.asarray(given.queries[chosen], np.float32)
    own, labels = np.full(len(chosen), -1), np.full(len(chosen), -1)
    relevant = None if given.relevant is None else among_rows(given.relevant[chosen], len(given.embeddings), rows.kept)
    if codes is None:
        return Queries(vectors, own, np.ones(len(own), bool), labels, relevant)
    if given.query_labels is not None:
        return Queries(vectors, own, np.ones(len(own), bool), given.query_labels[chosen], relevant)
    more = np.sort(rng.choice(len(rows), min(count, len(rows)), replace=False))
    if relevant is not None:
        relevant = np.concatenate([relevant, np.full((len(more), relevant.shape[1]), -1)])
    return Queries(
        np.concatenate([vectors, rows.take(more)]),
        np.concatenate([own, more]),
        np.arange(len(own) + len(more)) < len(own),
        np.concatenate([labels, codes[more]]),
        relevant,
    )


def among_rows(relevant: NDArray[np.int64], count: int, kept: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Relevant rows by their place among those that are searched; -1 for the others."""
    if kept is None:
        return relevant
    place = np.full(count + 1, -1)
    place[kept] = np.arange(len(kept))
    return place[relevant]


def classes_left(labels: NDArray[np.int64] | None, kept: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    return labels if labels is None or kept is None else labels[kept]


def positions_in(kept: NDArray[np.int64] | None, own: NDArray[np.int64]) -> list[int]:
    """Rows of the embeddings, as they were given."""
    found: list[int] = (own if kept is None else kept[own]).tolist()
    return found
