"""The report as a Markdown table for a model card."""

from __future__ import annotations

import re

from . import digits
from .lookup import cells_of, cost_of, summary_of
from .values import Report
from .words import in_percent, method_label, metric_label


def to_markdown(report: Report) -> str:
    """The prefix at each size, as a table for a model card, with what it comes to and what it was measured on.

    Args:
        report: what was measured.

    Returns:
        Markdown, of one table and a few lines, that ends with a line break.

    Example:
        >>> from mrl.report.card import to_markdown
        >>> from mrl.report.values import Report, ReportRow
        >>> rows = (ReportRow("prefix", 64, "recall_at_k", 0.991, 0.988, 0.994),)
        >>> report = Report(rows, (), 10, (64,), ("64 dimensions keep 99.1 %.",), (), {"rows": 5000}, ())
        >>> print(to_markdown(report), end="")
        64 dimensions keep 99.1 %.
        <BLANKLINE>
        | dimensions | recall@10, % |
        | ---: | ---: |
        | 64 | 99.1 (98.8 to 99.4) |
        <BLANKLINE>
        Measured by `mrl report` on embeddings (5,000 rows): the prefix of each size, with intervals.
    """
    method, metrics = summary_of(report)
    cells = {metric: cells_of(report, metric) for metric in metrics}
    sizes = sorted({dim for found in cells.values() for name, dim in found if name == method}, reverse=True)
    weighed = any(cost_of(report, method, dim) for dim in sizes)
    heads = ["dimensions", *(metric_label(m, report.k) + (", %" if in_percent(m) else "") for m in metrics)]
    lines = [_line(heads + ["bytes of a vector"] * weighed), _line(["---:"] * (len(heads) + weighed))]
    for dim in sizes:
        row = [str(dim)]
        for metric in metrics:
            found = cells[metric].get((method, dim))
            row.append(_figure(found.value, found.low, found.high, in_percent(metric)) if found else digits.MISSING)
        cost = cost_of(report, method, dim)
        lines.append(
            _line(row + ([digits.count(cost.bytes_per_vector) if cost else digits.MISSING] if weighed else []))
        )
    known = {finding.text for finding in report.findings}  # they come below
    said = " ".join(sentence for sentence in report.verdict if sentence not in known)
    parts = [_text(said)] if said else []
    if sizes:
        parts.append("\n".join(lines))
    parts += [f"Note: {_text(finding.text)}" for finding in report.findings]
    rows = report.data.get("rows")
    counted = f" ({digits.count(rows)} rows)" if isinstance(rows, int) else ""
    parts.append(
        f"Measured by `mrl report` on {_text(report.title)}{counted}: the {method_label(method)} of each size, "
        "with intervals."
    )
    return "\n\n".join(parts) + "\n"


def _figure(value: float, low: float, high: float, percent: bool) -> str:
    shown, below, above = digits.triple(value, low, high, percent)
    return shown if digits.MISSING in (shown, below, above) else f"{shown} ({below} to {above})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """On one line, with what Markdown and HTML would take for their own made plain."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
