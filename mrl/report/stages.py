"""Searches and classifiers by stages: the funnel that was planned, and the curve of cascades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..cascade import CascadePolicy, CurvePoint, cascade_curve, fit_cascade
from ..nesting import Nesting
from ..retrieval import FunnelPlan, plan_funnel
from .neighbours import Place, Queries, moved
from .planning import FUNNEL_ROWS
from .source import Float, Rows

GOALS = (0.99, 0.95, 0.9)
FUNNEL_QUERIES = 400
FEWEST = 40
"""Queries below which nothing is planned: half of them choose, half of them measure."""

DROPS = (0.003, 0.01, 0.03)
"""How much less accurate than the full width the policies of a curve may be where they are fitted."""


def plan_stages(
    rows: Rows, queries: Queries, sizes: Sequence[int], *, k: int, metric: str, backend: str, seed: int
) -> FunnelPlan | None:
    """The cheapest funnel for 99 % of the neighbours, or 95, or 90; of at most 50,000 rows.

    A query that is a row would find itself: where queries are rows, a fifth of all at most are asked, and are no rows
    of this search.
    """
    rng = np.random.default_rng(seed)
    mine = np.flatnonzero(queries.asked)
    most = FUNNEL_QUERIES if (queries.own[mine] < 0).all() else min(FUNNEL_QUERIES, len(rows) // 5)
    mine = rng.permutation(mine)[:most]
    others = np.setdiff1d(np.arange(len(rows)), queries.own[mine])
    if len(others) > FUNNEL_ROWS:
        others = np.sort(rng.choice(others, FUNNEL_ROWS, replace=False))
    if len(mine) < FEWEST or len(others) < 2 * k or len(sizes) < 2:
        return None
    asked, searched = moved(queries.vectors[mine], backend), moved(rows.take(others), backend)
    for goal in GOALS:
        try:
            return plan_funnel(asked, searched, sizes, k=k, recall=goal, seed=seed, stages=2, metric=metric)
        except ValueError:  # no funnel reaches that
            continue
    return None


def curve_of(
    logits: Mapping[Place, Float], labels: NDArray[np.int64], sizes: Sequence[int], *, level: float, seed: int
) -> tuple[CurvePoint, ...]:
    """Cascades of the heads of all sizes, the paper's and three more: fitted on half of the held-out rows, measured on the other half.

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
    logits: Mapping[Place, Float], labels: NDArray[np.int64], sizes: Sequence[int], part: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The largest probability of each row at each size, and whether it is the right class."""
    levels = [logits["prefix", m][part].astype(np.float64) for m in sizes]
    right = np.stack([level.argmax(1) == labels[part] for level in levels])
    largest = np.stack([1 / np.exp(level - level.max(1, keepdims=True)).sum(1) for level in levels])
    return largest, right
