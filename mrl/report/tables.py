"""A report's tables. Each scrolls in a place of its own where it is wider than the screen, with the keyboard too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..retrieval.plan import SHOWN, FunnelChoice, FunnelPlan
from . import digits
from .lookup import (
    cells_of,
    cost_of,
    differences_of,
    grouped_costs,
    methods_of,
    sizes_of,
    summary_of,
)
from .values import Report, ReportCost
from .words import in_percent, method_label, metric_label, ordered_methods

STAGES = "dimensions: candidates kept, stage by stage"
LEFT = ' class="words"'


def sizes_table(report: Report) -> str:
    """What the prefix keeps at each size, and what a vector of it weighs."""
    method, metrics = summary_of(report)
    cells = {metric: cells_of(report, metric) for metric in metrics}
    sizes = sorted({dim for found in cells.values() for name, dim in found if name == method}, reverse=True)
    costs = {dim: cost_of(report, method, dim) for dim in sizes}
    weighed = any(costs.values())
    heads = [
        "dimensions",
        *(_head(metric, report.k) for metric in metrics),
        *(["bytes of a vector"] if weighed else []),
    ]
    body = []
    for dim in sizes:
        row = [_figure(cells[metric].get((method, dim)), metric) for metric in metrics]
        cost = costs[dim]
        weight = [f"<td>{digits.count(cost.bytes_per_vector) if cost else digits.MISSING}</td>"] if weighed else []
        body.append(_row(str(dim), [*row, *weight]))
    return table(f"The {method_label(method)} at each size, with intervals", heads, [body])


def metric_table(report: Report, metric: str) -> str:
    """Every figure of a metric: a row for each size, a column for each method."""
    cells = cells_of(report, metric)
    methods = methods_of(cells)
    body = [
        _row(str(dim), [_figure(cells.get((method, dim)), metric) for method in methods]) for dim in sizes_of(cells)
    ]
    caption = f"{_head(metric, report.k)}, with intervals"
    return table(caption, ["dimensions", *map(method_label, methods)], [body])


def differences_table(report: Report, metric: str) -> str:
    """The prefix less every other method, on the same queries; empty where the report has no such figures."""
    found = differences_of(report, metric)
    if not found:
        return ""
    methods = ordered_methods(method for method, _ in found)
    body = []
    for dim in sorted({dim for _, dim in found}):
        row = []
        for method in methods:
            one = found.get((method, dim))
            row.append(
                _cell(one.value, *digits.difference(one.value, one.low, one.high, in_percent(metric)))
                if one
                else f"<td>{digits.MISSING}</td>"
            )
        body.append(_row(str(dim), row))
    unit = " in points" if in_percent(metric) else ""
    caption = (
        f"{metric_label(metric, report.k)}: the prefix less the other method{unit}; above zero the prefix is better"
    )
    return table(caption, ["dimensions", *map(method_label, methods)], [body])


def cost_table(report: Report) -> str:
    """Bytes, memory, money and multiply-adds, for groups of methods that cost the same."""
    priced = any(cost.price_per_million is not None for cost in report.costs)
    heads = ["dimensions", "bytes of a vector", "memory of a million", *(["price of a million"] if priced else [])]
    heads.append("multiply-adds of a query over a million")
    groups = []
    for methods, costs in grouped_costs(report):
        words = escape(", ".join(map(method_label, methods)))
        head = f'<tr><th colspan="{len(heads)}" scope="rowgroup"><span>{words}</span></th></tr>'
        groups.append([head, *(_cost_row(cost, priced) for cost in costs)])
    return table("What vectors of each kind and size cost", heads, groups)


def funnel_table(plan: FunnelPlan, every: bool = False) -> str:
    """The cheapest funnel at some recalls, or all that no other beats."""
    choices = list(plan.frontier)
    if not every:
        reach = (next((c for c in choices if c.recall >= goal), None) for goal in sorted({*SHOWN, plan.goal}))
        chosen = (c for c in choices if (c.dims, c.shortlists) == (plan.dims, plan.shortlists))
        choices = sorted({c for c in (*reach, *chosen) if c}, key=lambda c: c.multiply_adds)
    timed = any(c.seconds is not None for c in choices)
    heads = ["recall, %", "share of an exact search", "bytes read", *(["milliseconds"] if timed else []), STAGES]
    body = [_funnel_row(choice, plan, timed) for choice in choices]
    name = "Every funnel that no other beats" if every else "The cheapest funnel at some recalls"
    return table(f"{name}, on the queries that the choice was made on", heads, [body])


def cascade_table(report: Report) -> str:
    """The points of the cascade's curve."""
    body = []
    for point in sorted(report.cascade, key=lambda p: p.expected_dim.value):
        small = [digits.triple(*figure, percent=False) for figure in (point.expected_dim, point.cumulative_dim)]
        cells = [
            _cell(point.cumulative_dim.value, *small[1]),
            _cell(point.accuracy.value, *digits.triple(*point.accuracy)),
        ]
        body.append(
            f'<tr><th scope="row"><data value="{point.expected_dim.value!r}">{small[0][0]}</data>'
            f'<span class="small">{small[0][1]} to {small[0][2]}</span></th>{"".join(cells)}</tr>'
        )
    heads = ["dimensions of the answer, on average", "of all levels visited, added up", "accuracy, %"]
    return table("Cascades, from cheap to careful, with intervals", heads, [body])


def table(caption: str, heads: Sequence[str], groups: Iterable[Sequence[str]]) -> str:
    """A table in a place of its own that scrolls; ``groups`` are rows that belong together, as HTML."""
    head = "".join(f'<th scope="col"{LEFT if text == STAGES else ""}>{escape(text)}</th>' for text in heads)
    groups = list(groups)
    kind = ' class="group"' if len(groups) > 1 or (groups and "rowgroup" in groups[0][0]) else ""
    body = "".join(f"<tbody{kind}>{''.join(rows)}</tbody>" for rows in groups)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _row(name: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _head(metric: str, k: int) -> str:
    return metric_label(metric, k) + (",\N{NO-BREAK SPACE}%" if in_percent(metric) else "")


def _figure(row: Sequence[object] | None, metric: str) -> str:
    if row is None:
        return f"<td>{digits.MISSING}</td>"
    value, low, high = (float(x) for x in row[3:6])  # type: ignore[arg-type]
    return _cell(value, *digits.triple(value, low, high, in_percent(metric)))


def _cell(value: float, shown: str, low: str, high: str) -> str:
    interval = "" if digits.MISSING in (low, high) else f"<small>{low} to {high}</small>"
    return f'<td><data value="{value!r}">{shown}</data>{interval}</td>'


def _cost_row(cost: ReportCost, priced: bool) -> str:
    cells = [digits.count(cost.bytes_per_vector), digits.memory(cost.bytes_per_million)]
    if priced:
        cells.append(digits.MISSING if cost.price_per_million is None else digits.money(cost.price_per_million))
    cells.append(digits.large(cost.multiply_adds))
    return _row(str(cost.dim), [f"<td>{escape(text)}</td>" for text in cells])


def _funnel_row(choice: FunnelChoice, plan: FunnelPlan, timed: bool) -> str:
    chosen = ' class="chosen"' if (choice.dims, choice.shortlists) == (plan.dims, plan.shortlists) else ""
    cells = [f"{digits.number(choice.multiply_adds / plan.exact_multiply_adds, 1)}\N{NO-BREAK SPACE}%"]
    cells.append(digits.memory(choice.bytes))
    if timed:
        cells.append(digits.MISSING if choice.seconds is None else f"{1e3 * choice.seconds:.3g}")
    mark = " (chosen)" if chosen else ""
    steps = " \N{RIGHTWARDS ARROW} ".join(f"{m}: {k:,}" for m, k in zip(choice.dims, choice.shortlists, strict=True))
    words = f'<td class="words">{steps}{mark}</td>'
    head = f'<th scope="row"><data value="{choice.recall!r}">{digits.number(choice.recall, 1)}</data></th>'
    return f"<tr{chosen}>{head}{''.join(f'<td>{c}</td>' for c in cells)}{words}</tr>"
