"""Searches and classifiers by stages: the funnel that was planned, and the curve of cascades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..cascade import CascadePolicy, CurvePoint, Interval, cascade_curve, fit_cascade
from ..nesting import Nesting
from ..retrieval import FunnelPlan, plan_funnel, search
from ..retrieval.metrics import recall_at_k
from .neighbours import Method, Queries
from .placing import Place
from .planning import FUNNEL_ROWS
from .resampling import Bootstrap
from .source import Float, Rows

GOALS = (0.99, 0.95, 0.9)
FUNNEL_QUERIES = 600
FEWEST = 40
"""Queries below which nothing is planned: a quarter of them chooses."""

DROPS = (0.005, 0.02)
"""How much less accurate than the full width the policies of a curve may be where they are fitted."""


def plan_stages(
    rows: Rows,
    queries: Queries,
    sizes: Sequence[int],
    *,
    k: int,
    metric: str,
    place: Place,
    bootstrap: Bootstrap,
) -> FunnelPlan | None:
    """The cheapest funnel for 99 % of the neighbours, or 95, or 90; of at most 50,000 rows.

    Half of the queries plan it; the others say what it finds, with the interval of all other figures. A query that is a
    row would find itself: where queries are rows, a fifth of all at most are asked, and are no rows of this search.
    """
    rng = np.random.default_rng([bootstrap.seed, 4])
    mine = np.flatnonzero(queries.asked)
    most = FUNNEL_QUERIES if (queries.own[mine] < 0).all() else min(FUNNEL_QUERIES, len(rows) // 5)
    mine = rng.permutation(mine)[:most]
    others = np.setdiff1d(np.arange(len(rows)), queries.own[mine])
    if len(others) > FUNNEL_ROWS:
        others = np.sort(rng.choice(others, FUNNEL_ROWS, replace=False))
    if len(mine) < FEWEST or len(others) < 2 * k or len(sizes) < 2:
        return None
    searched = place.moved(rows.take(others))
    planning, measuring = (place.moved(queries.vectors[part]) for part in np.array_split(mine, 2))
    for goal in GOALS:
        try:
            plan = plan_funnel(
                planning, searched, sizes, k=k, recall=goal, seed=bootstrap.seed, stages=2, metric=metric
            )
        except ValueError:  # no funnel reaches that
            continue
        found = place.brought(plan.search(measuring, searched).indices)
        exact = place.brought(search(measuring, searched, k=k, metric=metric).indices)
        kept = recall_at_k(found, exact, k, reduction="none")
        whole = np.stack([kept, kept == 1], 1)
        ends = [Interval(*(float(end) for end in each)) for each in zip(*bootstrap.of(whole, 0.0, 1.0), strict=True)]
        return replace(plan, recall=ends[0], complete=ends[1], queries=len(kept))
    return None


def curve_of(
    logits: Mapping[Method, Float], labels: NDArray[np.int64], sizes: Sequence[int], *, level: float, seed: int
) -> tuple[CurvePoint, ...]:
    """Cascades of the heads of all sizes: fitted on half of the held-out rows, measured on the other half.

    The paper's, and two that are less accurate than the full width by a little.

    The last is the full width alone.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    fitting, measuring = order[: len(order) // 2], order[len(order) // 2 :]
    if len(sizes) < 2 or len(fitting) < FEWEST:
        return ()
    nesting = Nesting(sizes)
    pairs = [confidences(logits, labels, sizes, part) for part in (fitting, measuring)]
    policies = [fit_cascade(pairs[0], None, nesting)]
    policies += [fit_cascade(pairs[0], None, nesting, method="accuracy", drop=drop) for drop in DROPS]
    policies.append(CascadePolicy((1.0,) * (len(sizes) - 1), tuple(sizes)))
    points = cascade_curve(pairs[1], None, policies, confidence_level=level, seed=seed)
    return (*sorted(points[:-1], key=lambda point: point.expected_dim.value), points[-1])


def confidences(
    logits: Mapping[Method, Float], labels: NDArray[np.int64], sizes: Sequence[int], part: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The largest probability of each row at each size, and whether it is the right class."""
    levels = [logits["prefix", m][part].astype(np.float64) for m in sizes]
    right = np.stack([level.argmax(1) == labels[part] for level in levels])
    largest = np.stack([1 / np.exp(level - level.max(1, keepdims=True)).sum(1) for level in levels])
    return largest, right
