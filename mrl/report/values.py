"""What a report is: rows of figures, what they were measured on, and what they say in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from ..cascade.curve import CurvePoint
from ..retrieval.plan import FunnelPlan

METHODS = ("prefix", "pca", "random", "unnormalized", "last", "int8", "binary", "rotation", "adaptor")
"""Ways to a smaller embedding, in the order of tables and figures."""


class ReportRow(NamedTuple):
    """One figure of one way to a smaller embedding.

    Attributes:
        method: one of :data:`METHODS`.
        dim: the dimensions that are left.
        metric: what was measured, such as ``"recall_at_k"``.
        value, low, high: the figure and its interval.
    """

    method: str
    dim: int
    metric: str
    value: float
    low: float
    high: float


class ReportDifference(NamedTuple):
    """The prefix less another method of the same size, query by query.

    Attributes:
        method: what is taken off the prefix.
        dim, metric: as of :class:`ReportRow`.
        value, low, high: the mean difference and its paired interval.
    """

    method: str
    dim: int
    metric: str
    value: float
    low: float
    high: float


class ReportCost(NamedTuple):
    """What vectors of one kind and size cost.

    Attributes:
        method, dim: as of :class:`ReportRow`.
        bytes_per_vector: of storage.
        bytes_per_million: of memory for a million vectors.
        price_per_million: of that memory, in the unit of the price that was given; ``None`` without one.
        multiply_adds: of one query over a million vectors.
    """

    method: str
    dim: int
    bytes_per_vector: float
    bytes_per_million: float
    price_per_million: float | None
    multiply_adds: float


class Finding(NamedTuple):
    """Something about the data that a reader has to know before any figure.

    Attributes:
        name: such as ``"duplicates"``.
        text: in words.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Report:
    """What :func:`mrl.report` has measured.

    Attributes:
        rows: the figures.
        differences: the prefix beside the other methods.
        k: of recall, precision and so on at ``k``.
        sizes: the dimensions that were evaluated, the full width last.
        verdict: what the figures come to, sentence by sentence.
        findings: about the data.
        data: what was measured on: counts, the width, samples, the seed, what was excluded.
        costs: bytes, money and multiply-adds of each method and size.
        funnel: the plan of a search by stages, where one was made.
        cascade: points of accuracy against dimensions, where there are labels.
        title: the name of the data.

    Example:
        >>> import mrl, numpy as np
        >>> rows = (np.random.default_rng(0).normal(size=(300, 32)) * 0.7 ** np.arange(32)).astype(np.float32)
        >>> report = mrl.report(rows, dims=(8, 16), k=5)
        >>> print(report.verdict[0])  # doctest: +ELLIPSIS
        16 of 32 dimensions keep 100.0 % (9... to 100.0) of recall@5.
        >>> mrl.Report.from_json(report.to_json()) == report
        True

    Source: arXiv 2205.13147, sections 4.2 and 4.3.
    """

    rows: tuple[ReportRow, ...]
    differences: tuple[ReportDifference, ...]
    k: int
    sizes: tuple[int, ...]
    verdict: tuple[str, ...]
    findings: tuple[Finding, ...]
    data: dict[str, Any]
    costs: tuple[ReportCost, ...]
    funnel: FunnelPlan | None = None
    cascade: tuple[CurvePoint, ...] = field(default=(), repr=False)
    title: str = "embeddings"

    def to_json(self) -> str:
        """The report as JSON, which :meth:`from_json` reads."""
        return str(_form("stored").to_json(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that :meth:`to_json` wrote.

        Raises:
            ValueError: the text is no such report; the message says why.
        """
        found: Report = _form("stored").from_json(text)
        return found

    def to_html(self) -> str:
        """The report as one page, which needs nothing beside it."""
        return str(_form("page").to_html(self))

    def to_markdown(self) -> str:
        """The table of a model card."""
        return str(_form("card").to_markdown(self))

    def __str__(self) -> str:
        return str(_form("text").to_text(self))


def _form(name: str) -> Any:
    """A module that makes something of a report: it knows what a report is, so it is no import of this one."""
    return import_module(f"{__package__}.{name}")
