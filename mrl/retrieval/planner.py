"""Which funnel: the cheapest that finds as much as was asked for, and what it finds for other queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..cascade.binomial import clopper_pearson
from ..cascade.interval import Interval
from ..dispatch import backend_of, device_of, settle
from ..heads import Array
from ..nesting import Nesting
from . import arguments
from .betting import mean_interval
from .plan import FunnelChoice, FunnelPlan
from .prepared import Database
from .search import funnel_search, prepare_database, search

LONGEST_SHORTLIST = 4096
SURE = 1.645
"""Standard errors over queries by which a choice must pass its goal: 19 of 20 times it does so by right."""

LEVEL = 0.95

Kept = dict[tuple[int, int], NDArray[np.bool_]]


def plan_funnel(
    queries: Array,
    database: Array | Database,
    dims: Sequence[int],
    *,
    k: int,
    recall: float = 0.99,
    sample: int | None = None,
    seed: int = 0,
    stages: int = 4,
    measured: bool = False,
    metric: str = "cosine",
) -> FunnelPlan:
    """The cheapest funnel whose recall of the exact ``k`` nearest neighbours is at least ``recall``.

    The neighbours are those of an exact search with all dimensions of the database. Half of the queries choose: of
    all funnels of so many ``stages`` on ``dims``, with shortlists of ``k`` times powers of the root of 2 (4096 at
    most), that end in the last of ``dims``, the one with the fewest multiply-adds whose mean recall is at least
    1.645 standard errors above the goal. A neighbour counts as kept by a stage where it is among the ``K`` best of
    all rows there, which is never more than the funnel keeps. The other half says what the choice finds: its recall
    is measured by
    running it. Cost is counted, not timed: ``N m_1 + K_1 m_2 + K_2 m_3 + ...`` multiply-adds a query.

    Args:
        queries: ``(Q, D)`` floating, at least 2 of the kind that will be asked; of any framework.
        database: ``(N, D)`` floating of the same framework, or a :class:`Database` of this metric.
        dims: the dimensions that stages may have, strictly increasing; the last is that of the last stage.
        k: how many neighbours, at most ``N``.
        recall: the goal, in (0, 1].
        sample: how many of the queries to use, drawn at random; ``None``: all.
        seed: of that draw, and of who chooses.
        stages: how many at most; what is compared grows fast with them.
        measured: run the funnels that no other beats, and take the fastest on this machine that reaches the goal.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.

    Returns:
        A :class:`FunnelPlan`.

    Raises:
        TypeError: as :func:`search`, or an argument of a wrong kind.
        ValueError: as :func:`search`, or a goal that no funnel reaches, with the best.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = (rng.normal(size=(3000, 64)) * 0.9 ** np.arange(64)).astype(np.float32)
        >>> plan = mrl.plan_funnel(rows[:300], rows, (8, 16, 32, 64), k=10, recall=0.98)
        >>> plan.recall.value >= 0.98, plan.dims[-1], plan.k
        (True, 64, 10)

    Source: arXiv 2205.13147, section 4.3.1; of the intervals arXiv 2010.09686, and Clopper and Pearson, Biometrika 26
    (1934).
    """
    goal = _check_recall(recall)
    checks.check_flag("measured", measured)
    stages = checks.check_integer("stages", stages, at_least=1)
    k, chosen = checks.check_integer("k", k, at_least=1), Nesting(dims).dims
    arguments.check_metric(metric)
    if not isinstance(database, Database):
        _, given = settle({"queries": queries, "database": database})
        queries, database = given["queries"], prepare_database(given["database"], chosen, metric=metric)
    count, width = database.vectors.shape
    if k > count:
        raise ValueError(f"k: expected an integer in [1, {count}], the rows of the database, got {k}; ask for fewer")
    arguments.check_dim("dims", chosen[-1], queries, database)
    choosing, held_out = _halves(queries, sample, checks.check_integer("seed", seed, at_least=0))
    truths = [_indices(search(part, database, k=k, dim=width, metric=metric).indices) for part in (choosing, held_out)]
    lengths = _lengths(k, count)
    kept = _kept(choosing, database, truths[0], chosen, lengths, metric)
    costs = _Costs(database)
    frontier, best = [], -1.0
    for choice, hits in sorted(_choices(chosen, lengths, kept, costs, stages), key=lambda pair: pair[0].multiply_adds):
        if choice.recall > best:
            best = choice.recall
            frontier.append((choice, _lower(hits)))
    reaching = [choice for choice, lower in frontier if lower >= goal]
    if not reaching:
        choice, lower = max(frontier, key=lambda pair: pair[1])
        raise ValueError(
            f"recall: expected a goal that a funnel of {chosen} reaches, got {goal}; the best, {choice.dims} with "
            f"{choice.shortlists}, keeps {choice.recall:.4f}, surely {lower:.4f}: lower the goal, add dims or queries"
        )
    plain = [choice for choice, _ in frontier]
    if measured:
        timed = {choice: _timed(choice, held_out, database, metric) for choice in reaching}
        plain = [timed.get(choice, choice) for choice in plain]
        reaching = sorted(timed.values(), key=lambda choice: choice.seconds or 0.0)
    choice = reaching[0]
    found = funnel_search(held_out, database, dims=choice.dims, shortlists=choice.shortlists, metric=metric)
    hits = _shared(_indices(found.indices), truths[1])
    return FunnelPlan(
        choice.dims,
        choice.shortlists,
        metric,
        count,
        width,
        goal,
        mean_interval(np.random.default_rng(seed).permutation(hits.mean(-1)), LEVEL),
        _share(int(hits.all(-1).sum()), len(hits)),
        len(hits),
        choice.multiply_adds,
        choice.bytes,
        count * width,
        choice.seconds,
        tuple(plain),
    )


class _Costs:
    """What a funnel costs a query, in multiply-adds and in bytes of rows."""

    def __init__(self, database: Database) -> None:
        self.count, self.width = database.vectors.shape
        self.prepared = {prefix.shape[-1]: _itemsize(prefix) for prefix in database.prefixes}
        self.itemsize = _itemsize(database.vectors)

    def of(self, dims: Sequence[int], shortlists: Sequence[int]) -> tuple[int, int]:
        sizes = [self.count, *shortlists[:-1]]
        terms = [n * m for n, m in zip(sizes, dims, strict=True)]
        widths = [self.prepared.get(m, self.itemsize) for m in dims]
        return sum(terms), sum(term * size for term, size in zip(terms, widths, strict=True))


def _choices(
    dims: tuple[int, ...], lengths: Sequence[int], kept: Kept, costs: _Costs, most: int
) -> list[tuple[FunnelChoice, NDArray[np.bool_]]]:
    """All funnels that end in the last of ``dims``, with what each keeps ``(queries, k)``."""
    found, last, k = [], dims[-1], lengths[0]
    for stages in range(min(most, len(dims))):
        for first in combinations(dims[:-1], stages):
            for chosen in combinations(reversed(lengths), stages):
                hits = kept[last, k]
                for stage in zip(first, chosen, strict=True):
                    hits = hits & kept[stage]
                cost, read = costs.of((*first, last), (*chosen, k))
                found.append((FunnelChoice((*first, last), (*chosen, k), float(hits.mean()), cost, read), hits))
    return found


def _kept(
    queries: Array, database: Database, truth: NDArray[Any], dims: tuple[int, ...], lengths: list[int], metric: str
) -> Kept:
    """Which of the exact neighbours are among the best ``K`` with ``m`` dimensions: by ``(m, K)``."""
    kept = {}
    for m in dims:
        longest = lengths[-1] if m != dims[-1] else lengths[0]
        order = _indices(search(queries, database, k=longest, dim=m, metric=metric).indices)
        for length in lengths if m != dims[-1] else lengths[:1]:
            kept[m, length] = _shared(order[:, :length], truth)
    return kept


def _shared(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries of ``truth`` are in the same row of ``found``."""
    return np.stack([np.isin(b, a[a >= 0]) | (b < 0) for a, b in zip(found, truth, strict=True)])


def _lengths(k: int, count: int) -> list[int]:
    """Lengths of shortlists: ``k``, and then by the root of 2 each time."""
    most = max(k, min(count, LONGEST_SHORTLIST))
    lengths = [min(most, math.ceil(k * 2 ** (i / 2))) for i in range(2 + 2 * math.ceil(math.log2(most / k + 1)))]
    return sorted({*lengths, k})


def _lower(hits: NDArray[np.bool_]) -> float:
    """The mean recall less what chance may have added, over queries, whose neighbours are no chances of their own."""
    shares = hits.mean(-1)
    error = shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return float(shares.mean() - SURE * error)


def _halves(queries: Array, sample: int | None, seed: int) -> tuple[Array, Array]:
    shape = checks.shape_of("queries", queries)
    if len(shape) != 2 or shape[0] is None or shape[0] < 2:
        raise ValueError(f"queries: expected shape (Q, D) with at least 2 queries, got {tuple(shape)}; give more")
    used = shape[0]
    if sample is not None:
        used = min(used, checks.check_integer("sample", sample, at_least=2))
    order = np.random.default_rng(seed).permutation(shape[0])[:used]
    backend = backend_of({"queries": queries})
    values = backend.to_numpy(queries, blocking=True)
    first, second = (
        backend.from_numpy(np.ascontiguousarray(values[np.sort(part)]), dtype=None, device=device_of(queries))
        for part in (order[: used // 2], order[used // 2 :])
    )
    return first, second


def _timed(choice: FunnelChoice, queries: Array, database: Database, metric: str) -> FunnelChoice:
    times = []
    for _ in range(4):  # the first of which compiles, and reads
        start = perf_counter()
        found = funnel_search(queries, database, dims=choice.dims, shortlists=choice.shortlists, metric=metric)
        _indices(found.indices)
        times.append(perf_counter() - start)
    seconds = float(np.median(times[1:])) / queries.shape[0]
    return FunnelChoice(choice.dims, choice.shortlists, choice.recall, choice.multiply_adds, choice.bytes, seconds)


def _indices(array: Array) -> NDArray[Any]:
    return np.asarray(backend_of({"indices": array}).to_numpy(array, blocking=True))


def _share(hits: int, count: int) -> Interval:
    return Interval(hits / count, *clopper_pearson(hits, count, LEVEL))


def _itemsize(array: Array) -> int:
    return {"float64": 8, "float32": 4}.get(checks.dtype_name(array), 2)


def _check_recall(recall: float) -> float:
    if isinstance(recall, bool) or not isinstance(recall, (int, float, np.floating)):
        raise TypeError(f"recall: expected a number in (0, 1], got {type(recall).__name__}; write a float")
    if not 0 < recall <= 1:
        raise ValueError(f"recall: expected a number in (0, 1], got {recall}; 0.99 is a usual one")
    return float(recall)
