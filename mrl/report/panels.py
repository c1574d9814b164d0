"""What a report's figures show: metrics against dimensions and bytes, the funnel's frontier, the cascade's curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from ..retrieval.plan import FunnelPlan
from . import digits
from .figures import OTHER, STYLES, Axes, Guide, Point, Series, Style, drawing, legend
from .lookup import Cells, cells_of, cost_of, methods_of, sizes_of
from .scales import Scale, Tick, across, log_ticks, size_ticks, upwards
from .values import Report
from .words import in_percent, method_label, metric_label

T = TypeVar("T")

SPOKEN = 6
"""Sizes of each method that a figure's description says; the tables have all."""


def against_size(
    report: Report, metric: str, name: str, height: float, small: bool = False
) -> tuple[str, list[Series]]:
    """The figure of a metric against the dimensions kept, and its series. A small one has axes without names."""
    cells, label, percent = cells_of(report, metric), metric_label(metric, report.k), in_percent(metric)
    sizes = sizes_of(cells)
    series = []
    for method in methods_of(cells):
        rows = [cells[method, dim] for dim in sizes if (method, dim) in cells]
        points = tuple(
            Point(r.dim, r.value, r.low, r.high, _tip(method, f"{r.dim} dimensions", r, percent)) for r in rows
        )
        style = STYLES.get(method, OTHER)
        series.append(Series(method_label(method), style, points, band=method == "prefix"))
    x = across(sizes)
    y, y_ticks = _upwards(series, height, percent)
    names = ("", "") if small else ("dimensions kept, log scale", _unit(label, percent))
    axes = Axes(x, y, tuple(size_ticks(sizes, x)), y_ticks, *names)
    title = f"{label} against the dimensions that are kept"
    svg = drawing(name, title, _spoken(cells, label, percent), axes, series[::-1])
    return svg, series


def against_bytes(report: Report, metric: str, name: str, height: float) -> tuple[str, str] | None:
    """The figure of a metric against the bytes of a vector, where prefixes are stored in more ways than one."""
    cells, label, percent = cells_of(report, metric), metric_label(metric, report.k), in_percent(metric)
    series, kind = [], str(report.data.get("dtype", ""))
    for method in ("prefix", "int8", "binary"):
        pairs = [(cost_of(report, method, dim), cells.get((method, dim))) for dim in sizes_of(cells)]
        points = tuple(
            Point(
                cost.bytes_per_vector,
                row.value,
                row.low,
                row.high,
                _tip(method, f"{row.dim} dimensions, {digits.count(cost.bytes_per_vector)} bytes", row, percent),
            )
            for cost, row in pairs
            if cost and row
        )
        if points:
            label_of = f"{kind} prefix".strip() if method == "prefix" else method_label(method)
            series.append(Series(label_of, STYLES[method], points, band=method == "prefix"))
    if len(series) < 2:
        return None
    x = across([p.x for one in series for p in one.points])
    y, y_ticks = _upwards(series, height, percent)
    ticks = tuple(log_ticks(x, lambda b: f"{b:g}", base=4.0, most=6))
    axes = Axes(x, y, ticks, y_ticks, "bytes of a vector, log scale", _unit(label, percent))
    spoken = "; ".join(
        f"{one.label}: {', '.join(p.tip.split(', ', 1)[1] for p in _some(one.points))}" for one in series
    )
    svg = drawing(name, f"{label} against the bytes of a vector", f"{spoken}.", axes, series[::-1])
    return svg, legend(series)


def funnel_frontier(plan: FunnelPlan, name: str, height: float) -> tuple[str, str]:
    """The figure of a plan: recall against the multiply-adds of one query, and its legend."""
    frontier = Series(
        "the best at each cost",
        Style("binary", "dot"),
        tuple(
            Point(c.multiply_adds, c.recall, math.nan, math.nan, f"{stages(c.dims, c.shortlists)}: {_share(c.recall)}")
            for c in plan.frontier
        ),
    )
    words = digits.sentence(*plan.recall)
    chosen = Series(
        "chosen, on queries held out",
        Style("prefix", "diamond"),
        (Point(plan.multiply_adds, *plan.recall, f"chosen: {stages(plan.dims, plan.shortlists)}: {words}"),),
        line=False,
    )
    series = [one for one in (frontier, chosen) if one.points]
    x = across([p.x for one in series for p in one.points] + [plan.exact_multiply_adds])
    y, y_ticks = _upwards(series, height, True, [plan.goal])
    axes = Axes(
        x, y, tuple(log_ticks(x, digits.large)), y_ticks, "multiply-adds of a query, log scale", f"recall@{plan.k}, %"
    )
    guides = [Guide(plan.goal, "asked for", across=True), Guide(plan.exact_multiply_adds, "exact search")]
    spoken = (
        f"Chosen: {stages(plan.dims, plan.shortlists)}, with {words} of the neighbours for "
        f"{digits.large(plan.multiply_adds)} multiply-adds a query; an exact search takes "
        f"{digits.large(plan.exact_multiply_adds)}. Asked for: {_share(plan.goal)}."
    )
    return drawing(name, f"recall@{plan.k} against the cost of a query", spoken, axes, series, guides), legend(series)


def cascade_points(report: Report, name: str, height: float) -> tuple[str, str]:
    """The figure of accuracy against the mean dimensions of a cascade's answers, and its legend."""
    ordered = sorted(report.cascade, key=lambda point: point.expected_dim.value)
    points = tuple(
        Point(
            point.expected_dim.value,
            *point.accuracy,
            f"{digits.count(float(f'{point.expected_dim.value:.3g}'))} dimensions: {digits.sentence(*point.accuracy)}",
            point.expected_dim.low,
            point.expected_dim.high,
        )
        for point in ordered
    )
    series = [Series("cascades", Style("prefix", "circle"), points, line=len(points) > 2)]
    x = across([v for p in points for v in (p.x, p.left, p.right)])
    y, y_ticks = _upwards(series, height, True)
    ticks = tuple(log_ticks(x, lambda d: f"{d:.3g}", base=2.0))
    axes = Axes(x, y, ticks, y_ticks, "dimensions on average, log scale", "accuracy, %")
    spoken = "; ".join(p.tip for p in _some(points))
    return drawing(name, "accuracy against the mean dimensions of an answer", f"{spoken}.", axes, series), legend(
        series
    )


def stages(dims: Sequence[int], shortlists: Sequence[int]) -> str:
    """A funnel in words: ``the best 100 with 64 dimensions, of these 10 with 768``."""
    first, *rest = zip(dims, shortlists, strict=True)
    words = [f"the best {first[1]:,} with {first[0]} dimensions", *(f"of these {k:,} with {m}" for m, k in rest)]
    return ", ".join(words)


def _upwards(
    series: Sequence[Series], height: float, percent: bool, more: Sequence[float] = ()
) -> tuple[Scale, tuple[Tick, ...]]:
    values = [v for one in series for p in one.points if math.isfinite(p.value) for v in (p.value, p.low, p.high)]
    y, numbers = upwards([*values, *more], height, percent, most=6 if height > 200 else 4)
    scale = 100 if percent else 1
    return y, tuple(Tick(y(v), digits.signed(f"{scale * v:.6g}")) for v in numbers)


def _spoken(cells: Cells, label: str, percent: bool) -> str:
    parts = []
    for method in methods_of(cells):
        rows = _some([cells[method, dim] for dim in sizes_of(cells) if (method, dim) in cells])
        said = ", ".join(f"{r.dim} dimensions {digits.sentence(r.value, r.low, r.high, percent)}" for r in rows)
        parts.append(f"{method_label(method)}: {said}")
    return f"{label}. {'; '.join(parts)}. All figures are in the tables."


def _some(values: Sequence[T]) -> list[T]:
    if len(values) <= SPOKEN:
        return list(values)
    return [values[round(i * (len(values) - 1) / (SPOKEN - 1))] for i in range(SPOKEN)]


def _tip(method: str, where: str, row: Sequence[object], percent: bool) -> str:
    value, low, high = (float(x) for x in row[3:6])  # type: ignore[arg-type]
    return f"{method_label(method)}, {where}: {digits.sentence(value, low, high, percent)}"


def _unit(label: str, percent: bool) -> str:
    return f"{label}, %" if percent else label


def _share(value: float) -> str:
    return f"{digits.number(value, 1)}\N{NO-BREAK SPACE}%"
