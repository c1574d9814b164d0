"""Can these embeddings be cut, to what, and what does it cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..cascade.report import check_interval
from ..heads import Array
from ..retrieval.arguments import tracker
from . import arguments
from .arguments import Given
from .classes import heads_of, measure_classes, split
from .costs import costs_of
from .definitions import DEFINITIONS
from .findings import findings_of, usable_rows
from .neighbours import Queries, correlations, nearest, pools
from .planning import EPISODES, FIT_ROWS, POOL, plan_parts, plan_sample
from .ranking import measure_rankings
from .resampling import Bootstrap
from .rows import rows_of
from .source import Rows, Scan, scan
from .stages import curve_of, plan_stages
from .values import METHODS, Report
from .verdict import Figures, verdict_of
from .ways import check_transforms, ways_of


def report(
    embeddings: Array,
    *,
    labels: Any = None,
    queries: Array | None = None,
    query_labels: Any = None,
    relevant: Any = None,
    dims: Sequence[int] | None = None,
    k: int = 10,
    metric: str = "cosine",
    price: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    confidence_level: float = 0.95,
    backend: str | None = None,
    transforms: Mapping[str, Any] | None = None,
    progress: bool = False,
    title: str = "embeddings",
) -> Report:
    """Whether embeddings can be cut, to how many dimensions, and what that costs and saves.

    Of every size the prefix, and of the same size PCA, random coordinates, the prefix that is not normalised again, the
    last dimensions, int8 and one bit a dimension, are compared with the full width: ``recall_at_k`` of its ``k``
    nearest rows, and ``rank_correlation``, Kendall's tau of scores; against labels or relevant rows
    ``precision_at_k``, ``map_at_k`` and ``ndcg_at_k``; with labels ``nn_accuracy``, ``linear_accuracy``,
    ``fewshot_accuracy_1``, ``_5`` and ``_10``, and ``rare_accuracy``. Each has an interval, a bootstrap over queries or
    held-out rows that counts what was not seen, too. ``docs/report.md`` defines them all.

    Rows with NaN or infinity are left out, and counted. Without ``queries`` rows drawn at random are the queries, and
    none is its own neighbour. What is sampled, because all of it would take more than minutes, ``data`` and
    ``findings`` say.

    Args:
        embeddings: ``(N, D)`` floating, of any framework; NumPy's may be memory-mapped. Computed in float32.
        labels: ``(N,)`` integers or strings, the classes of the rows.
        queries: ``(Q, D)`` floating; ``None``: rows are.
        query_labels: ``(Q,)`` the classes of the queries; without them, rows are asked for theirs.
        relevant: ``(Q, R)`` integers, the rows that are relevant to each query, filled up with -1.
        dims: the sizes, strictly increasing; the full width is always one. ``None``: powers of two below it.
        k: of the metrics "at k".
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        price: of a gigabyte (10^9 bytes) of memory, in a currency and for a time of yours.
        sample: how many queries to ask; ``None`` plans it: 1000, or fewer of very many rows.
        seed: of all draws: queries, splits, shots, coordinates, resamplings.
        confidence_level: of the intervals, between 0 and 1.
        backend: where to search, such as ``"torch"``; ``None``: where the embeddings are.
        transforms: ``{"rotation": f, "adaptor": g}``: functions of rows ``(n, D)`` as NumPy's float32, compared at
            each size beside the others.
        progress: show bars, with tqdm.
        title: the name of the data.

    Returns:
        A :class:`Report`; ``str`` of it is text, and it has ``to_json``, ``to_html`` and ``to_markdown``.

    Raises:
        TypeError: no arrays, no floating dtype, or an argument of a wrong kind.
        ValueError: shapes that do not fit, labels of one class, fewer rows than ``k``, no finite row, or an argument
            out of range.
        ImportError: a backend or tqdm that is missing.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = (rng.normal(size=(500, 32)) * 0.8 ** np.arange(32)).astype(np.float32)
        >>> found = mrl.report(rows, dims=(8, 16), k=5)
        >>> found.sizes, found.rows[0]._fields
        ((8, 16, 32), ('method', 'dim', 'metric', 'value', 'low', 'high'))
        >>> [row.value > 0.9 for row in found.rows if row[:3] == ("prefix", 16, "recall_at_k")]
        [True]

    Source: arXiv 2205.13147, sections 4.2 and 4.3, appendix E.
    """
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
    among = usable if of_queries is None else len(given.queries) - int((~of_queries.finite).sum())
    names = [*METHODS[:7], *given_ways]
    planned = plan_sample(among, usable, sizes, names, wanted)
    if planned.rows < usable:
        drawn = np.sort(np.random.default_rng([seed, 1]).choice(usable, max(planned.rows, 2 * k), replace=False))
        kept = drawn if kept is None else kept[drawn]
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
    found = nearest(rows, asked, ways, sizes, k=k, backend=given.backend, track=tracker(progress, "search"))
    measured = measure_rankings(found, asked, codes, k)
    pool = pools(len(rows), asked.own, POOL, seed)
    for (method, m), tau in correlations(rows, asked, pool, ways, sizes).items():
        measured[method, m, "rank_correlation"] = np.where(asked.asked, tau, np.nan)
    curve, counts = (), (0, 0)
    if codes is not None:
        order = np.random.default_rng([seed, 3]).permutation(len(rows))
        counts = plan_parts(len(rows))
        positions = order[: counts[0]], order[counts[0] : sum(counts)]
        parts = split(rows, codes, positions)
        episodes = EPISODES if parts.classes <= 100 else 5
        measured |= measure_classes(parts, ways, sizes, seed, episodes)
        curve = curve_of(heads_of(parts, ways[0], sizes), parts.labels, sizes, level=level, seed=seed)
    funnel = plan_stages(rows, asked, sizes, k=k, metric=metric, backend=given.backend, seed=seed)

    figures, differences = rows_of(measured, sizes, Bootstrap(level, seed))
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
        "backend": given.backend,
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
