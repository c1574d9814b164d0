"""A funnel that was chosen, what it is expected to find, and what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

from ..cascade.interval import Interval
from ..heads import Array
from .arguments import check_funnel, check_metric
from .prepared import Database, SearchResult
from .search import funnel_search

FORMAT = "mrl.funnel_plan"
VERSION = 1
SHOWN = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Recalls whose cheapest funnels the table has."""


@dataclass(frozen=True)
class FunnelChoice:
    """One funnel among those that a plan was chosen from.

    Attributes:
        dims, shortlists: as :func:`mrl.funnel_search` takes them.
        recall: the share of the exact neighbours that it kept, of the queries that the choice was made on.
        multiply_adds: of one query: ``N m_1 + K_1 m_2 + K_2 m_3 + ...``.
        bytes: that one query reads of the rows.
        seconds: of one query, where it was measured.

    Example:
        >>> import mrl
        >>> mrl.FunnelChoice((8, 64), (40, 10), 0.99, 10_560, 42_240).seconds is None
        True

    Source: arXiv 2205.13147, section 4.3.1.
    """

    dims: tuple[int, ...]
    shortlists: tuple[int, ...]
    recall: float
    multiply_adds: int
    bytes: int
    seconds: float | None = None


@dataclass(frozen=True)
class FunnelPlan:
    """What :func:`mrl.plan_funnel` has chosen.

    Its text is a table. ``plan.search(queries, database)`` runs it, and :meth:`to_sql` and :meth:`to_vespa` write it
    down for engines that are not Python's.

    Attributes:
        dims, shortlists: as :func:`mrl.funnel_search` takes them; the last shortlist is ``k``.
        metric: of the search.
        rows, width: of the database.
        goal: the recall that was asked for.
        recall: the share of the exact ``k`` neighbours found for the queries held out of the choice, with an interval
            that covers the recall of queries like these with 95 %, of any number and however they differ.
        complete: the share of these queries for which all ``k`` were found, with Clopper and Pearson's at 95 %.
        queries: how many were held out.
        multiply_adds, bytes: of one query, counted: see :class:`FunnelChoice`.
        exact_multiply_adds: of one query of an exact search with all dimensions.
        seconds: of one query, where it was measured.
        frontier: the funnels that no other beats in both cost and recall, the cheapest first.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = (rng.normal(size=(2000, 64)) * 0.9 ** np.arange(64)).astype(np.float32)
        >>> plan = mrl.plan_funnel(rows[:200], rows, (8, 16, 64), k=5, recall=0.95)
        >>> plan.recall.value >= 0.95, plan.multiply_adds < plan.exact_multiply_adds
        (True, True)

    Source: arXiv 2205.13147, section 4.3.1.
    """

    dims: tuple[int, ...]
    shortlists: tuple[int, ...]
    metric: str
    rows: int
    width: int
    goal: float
    recall: Interval
    complete: Interval
    queries: int
    multiply_adds: int
    bytes: int
    exact_multiply_adds: int
    seconds: float | None = None
    frontier: tuple[FunnelChoice, ...] = field(default=(), repr=False)

    @property
    def k(self) -> int:
        """How many neighbours it finds."""
        return self.shortlists[-1]

    def search(self, queries: Array, database: Array | Database) -> SearchResult:
        """:func:`mrl.funnel_search` with this plan."""
        return funnel_search(queries, database, dims=self.dims, shortlists=self.shortlists, metric=self.metric)

    def __str__(self) -> str:
        cheaper = self.exact_multiply_adds / self.multiply_adds
        found = f"{100 * self.recall.value:.2f} % [{100 * self.recall.low:.2f}, {100 * self.recall.high:.2f}]"
        lines = [
            f"funnel for {self.k} of {self.rows} rows of {self.width} dimensions, {self.metric}",
            f"stages          {_stages(self.dims, self.shortlists)}",
            f"recall@{self.k:<9}{found} of {self.queries} queries held out; asked for {100 * self.goal:.4g} %",
            f"multiply-adds   {self.multiply_adds} a query, {cheaper:.1f} times fewer than an exact search",
            f"bytes read      {self.bytes} a query",
        ]
        if self.seconds is not None:
            lines.append(f"time            {1e3 * self.seconds:.4g} ms a query")
        if self.frontier:
            lines.append("the cheapest at some recalls, of the queries chosen on:")
            lines.append(f"  {'recall, %':>10}{'multiply-adds':>16}{'bytes':>14}  stages")
        reach = [next((c for c in self.frontier if c.recall >= goal), None) for goal in (*SHOWN, self.goal)]
        for choice in sorted({c for c in reach if c}, key=lambda c: c.multiply_adds):
            cost = f"{choice.multiply_adds:>16}{choice.bytes:>14}"
            lines.append(f"  {100 * choice.recall:10.2f}{cost}  {_stages(choice.dims, choice.shortlists)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as JSON, which :meth:`from_json` reads."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> FunnelPlan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            ValueError: the text is no such plan; the message says why.
        """
        try:
            content = json.loads(text)
            if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
                raise ValueError(f"its format is not {FORMAT!r}, version {VERSION}")
            frontier = tuple(_choice(**entry) for entry in content.pop("frontier"))
            recall, complete = Interval(*content.pop("recall")), Interval(*content.pop("complete"))
            stages = check_funnel(content.pop("dims"), content.pop("shortlists"))
            check_metric(content["metric"])
            dims, shortlists = zip(*stages, strict=True)
            return cls(dims, shortlists, recall=recall, complete=complete, frontier=frontier, **content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"text: expected a plan as FunnelPlan.to_json writes it, got another: {error}") from error

    def to_sql(
        self,
        table: str,
        *,
        column: str = "embedding",
        key: str = "id",
        parameter: str = "$1",
        dialect: str = "pgvector",
    ) -> str:
        """The plan as SQL: one query that is the funnel, after the index that pgvector needs for its first stage.

        Args:
            table, column, key: the names of the table, of the column of its vectors and of its key.
            parameter: what stands for the query's vector.
            dialect: ``"pgvector"``, or ``"sqlite-vec"``, which has no dot product and no index.

        Raises:
            ValueError: a name that is no plain identifier, or a metric that the dialect lacks.
        """
        from .export import to_sql

        return to_sql(self, table, column=column, key=key, parameter=parameter, dialect=dialect)

    def to_vespa(self, *, field: str = "embedding", name: str = "funnel") -> str:
        """The plan as fields and a rank profile of Vespa: first, second and global phase.

        Args:
            field: the name of the full vector's field; prefixes are called after it.
            name: of the rank profile.

        Raises:
            ValueError: a name that is no plain identifier, or a plan of more than three stages, or another metric.
        """
        from .export import to_vespa

        return to_vespa(self, field=field, name=name)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """The frontier as a figure: recall against multiply-adds of one query.

        Args:
            path: where to write the figure, in the format of its suffix; ``None`` writes nothing.

        Returns:
            A ``matplotlib.figure.Figure``; nothing is registered with ``pyplot``.

        Raises:
            ImportError: matplotlib is missing; the message says what to install.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(f"the figure needs matplotlib ({error}); run pip install 'mrl[plot]'") from error
        drawing = Figure(figsize=(6.4, 4.4), layout="constrained")
        panel = drawing.subplots()
        costs = [choice.multiply_adds for choice in self.frontier]
        panel.plot(costs, [100 * choice.recall for choice in self.frontier], marker=".", color="0.35", label="frontier")
        below, above = self.recall.value - self.recall.low, self.recall.high - self.recall.value
        panel.errorbar(
            [self.multiply_adds],
            [100 * self.recall.value],
            [[100 * below], [100 * above]],
            color="C0",
            marker="o",
            capsize=3,
            linestyle="",
            label=f"chosen: {_stages(self.dims, self.shortlists)}",
        )
        panel.axhline(100 * self.goal, color="0.35", linewidth=1, linestyle="--", label="asked for")
        panel.axvline(self.exact_multiply_adds, color="0.35", linewidth=1, linestyle=":", label="exact search")
        panel.set_xscale("log")
        panel.set_xlabel("multiply-adds of one query")
        panel.set_ylabel(f"recall@{self.k}, %")
        panel.grid(alpha=0.25)
        panel.legend(fontsize="small", frameon=False)
        if path is not None:
            drawing.savefig(path, dpi=150)
        return drawing


def _choice(dims: Sequence[int], shortlists: Sequence[int], recall: float, **costs: Any) -> FunnelChoice:
    if not math.isfinite(recall):
        raise ValueError(f"a recall is {recall}")
    stages = check_funnel(dims, shortlists)
    return FunnelChoice(tuple(m for m, _ in stages), tuple(k for _, k in stages), recall, **costs)


def _stages(dims: Sequence[int], shortlists: Sequence[int]) -> str:
    return " > ".join(f"{m}: {k}" for m, k in zip(dims, shortlists, strict=True))
