"""Figures as inline SVG that is as wide as its place: text and marks keep their size, only distances stretch.

Across, places are percents; up, they are pixels. Lines, which SVG cannot place in percents, lie in a nested drawing
that stretches without its strokes. What is written beside the axes lies outside the drawing, in its margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .scales import Scale, Tick

MARKS = {
    "circle": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
    "dot": "M-2,0a2,2 0 1,0 4,0a2,2 0 1,0 -4,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0Z",
    "up": "M0,-5.4L5.2,4H-5.2Z",
    "down": "M0,5.4L5.2,-4H-5.2Z",
    "cross": "M-4,-4L4,4M-4,4L4,-4",
    "plus": "M0,-5V5M-5,0H5",
    "left": "M-5.4,0L4,-5.2V5.2Z",
    "star": "M0,-5.5V5.5M-4.8,-2.8L4.8,2.8M-4.8,2.8L4.8,-2.8",
}


@dataclass(frozen=True)
class Style:
    """How a series is told from the others: by the class of its colour, its mark and its dashes."""

    kind: str
    mark: str
    dashes: str = ""


STYLES = {
    "prefix": Style("prefix", "circle"),
    "pca": Style("pca", "square", "7 3"),
    "random": Style("random", "up", "5 4"),
    "unnormalized": Style("unnormalized", "diamond", "9 3 2 3"),
    "last": Style("last", "down", "2 3"),
    "int8": Style("int8", "plus", "12 4"),
    "binary": Style("binary", "cross", "9 5"),
    "rotation": Style("rotation", "left", "14 3 3 3"),
    "adaptor": Style("adaptor", "star", "6 2 2 2 2 2"),
}
OTHER = Style("other", "square", "3 3")


@dataclass(frozen=True)
class Point:
    """A figure at ``x`` with its interval, up and, where it has one, across; ``tip`` says it in words."""

    x: float
    value: float
    low: float
    high: float
    tip: str
    left: float = math.nan
    right: float = math.nan


@dataclass(frozen=True)
class Series:
    """Points of one kind, joined in their order; ``band`` fills the interval, otherwise it is drawn as whiskers."""

    label: str
    style: Style
    points: tuple[Point, ...]
    band: bool = False
    line: bool = True


@dataclass(frozen=True)
class Guide:
    """A line through the whole figure with words at its end: at ``x``, or at ``y`` where ``across``."""

    at: float
    text: str
    across: bool = False


@dataclass(frozen=True)
class Axes:
    """Both axes of a figure, their marks and what they are called; without names the figure is one of many."""

    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str


def drawing(
    name: str, title: str, description: str, axes: Axes, series: Sequence[Series], guides: Sequence[Guide] = ()
) -> str:
    """The figure as one ``<svg>`` with a title and a description; ``name`` is its id, unlike any other of the page."""
    height = axes.y.start
    kind = "plot" if axes.y_label else "plot small-plot"
    inside = [_grid(axes, height), *(_guide(guide, axes, height) for guide in guides)]
    inside += [_lines(one, axes, height) for one in series] + [_marks(one, axes) for one in series]
    return (
        f'<svg class="{kind}" id="{name}" role="img" aria-labelledby="{name}-title {name}-desc" height="{height:g}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
        f"{''.join(inside)}</svg>"
    )


def legend(series: Sequence[Series]) -> str:
    """What the lines and marks of a figure are, as a list."""
    keys = []
    for one in series:
        line = f'<line x1="0" x2="34" y1="8" y2="8"{_dashes(one.style)}/>' if one.line else ""
        mark = f'<svg x="17" y="8" class="at"><path d="{MARKS[one.style.mark]}"/></svg>'
        keys.append(
            f'<li class="m-{one.style.kind}"><svg width="34" height="16" aria-hidden="true" focusable="false">'
            f"{line}{mark}</svg>{escape(one.label)}</li>"
        )
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _grid(axes: Axes, height: float) -> str:
    parts = []
    for tick in axes.y_ticks:
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{tick.place:g}" y2="{tick.place:g}"/>')
        parts.append(f'<text x="-8" y="{tick.place:g}" dy=".35em" class="end">{escape(tick.text)}</text>')
    parts.append(f'<line class="axis" x1="0" x2="100%" y1="{height:g}" y2="{height:g}"/>')
    for tick in axes.x_ticks:
        wide = ' class="wide"' if tick.wide else ""
        parts.append(f'<line class="axis" x1="{tick.place}%" x2="{tick.place}%" y1="{height:g}" y2="{height + 5:g}"/>')
        if tick.text:
            parts.append(f'<text x="{tick.place}%" y="{height + 19:g}"{wide}>{escape(tick.text)}</text>')
    if not axes.y_label:
        return "".join(parts)
    parts.append(f'<text x="100%" y="{height + 37:g}" class="end name">{escape(axes.x_label)}</text>')
    parts.append(f'<text x="-38" y="-14" class="start name">{escape(axes.y_label)}</text>')
    return "".join(parts)


def _guide(guide: Guide, axes: Axes, height: float) -> str:
    if guide.across:
        y = axes.y(guide.at)
        line = f'<line class="guide" x1="0" x2="100%" y1="{y:g}" y2="{y:g}"/>'
        return f'{line}<text x="93%" y="{y + 14:g}" class="end note">{escape(guide.text)}</text>'
    x = axes.x(guide.at)
    anchor, away = ("end", -6) if x > 50 else ("start", 6)
    line = f'<line class="guide" x1="{x}%" x2="{x}%" y1="0" y2="{height:g}"/>'
    words = f'<text x="{x}%" dx="{away}" y="{height - 8:g}" class="{anchor} note">{escape(guide.text)}</text>'
    return line + words


def _lines(series: Series, axes: Axes, height: float) -> str:
    shapes = []
    for run in _runs(series.points):
        places = [(axes.x(p.x), axes.y(p.value)) for p in run]
        if series.band and len(run) > 1:
            above = [(axes.x(p.x), axes.y(_or(p.high, p.value))) for p in run]
            below = [(axes.x(p.x), axes.y(_or(p.low, p.value))) for p in reversed(run)]
            shapes.append(f'<polygon class="band" points="{_path(above + below)}"/>')
        if series.line and len(run) > 1:
            dashes = _dashes(series.style)
            shapes.append(f'<polyline vector-effect="non-scaling-stroke"{dashes} points="{_path(places)}"/>')
    if not shapes:
        return ""
    return (
        f'<svg class="m-{series.style.kind}" width="100%" height="{height:g}" viewBox="0 0 100 {height:g}" '
        f'preserveAspectRatio="none" overflow="visible">{"".join(shapes)}</svg>'
    )


def _marks(series: Series, axes: Axes) -> str:
    parts = []
    for point in series.points:
        if not math.isfinite(point.value):
            continue
        x, y = axes.x(point.x), axes.y(point.value)
        low, high = axes.y(_or(point.low, point.value)), axes.y(_or(point.high, point.value))
        if low - high > 1:
            parts.append(f'<line class="whisker" x1="{x}%" x2="{x}%" y1="{low:g}" y2="{high:g}"/>')
        if math.isfinite(point.left) and math.isfinite(point.right):
            left, right = axes.x(point.left), axes.x(point.right)
            parts.append(f'<line class="whisker" x1="{left}%" x2="{right}%" y1="{y:g}" y2="{y:g}"/>')
        parts.append(
            f'<svg x="{x}%" y="{y:g}" class="at"><title>{escape(point.tip)}</title>'
            f'<circle r="9" class="reach"/><path d="{MARKS[series.style.mark]}"/></svg>'
        )
    return f'<g class="m-{series.style.kind}">{"".join(parts)}</g>' if parts else ""


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Neighbours that can be joined: a figure that is missing leaves a gap."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.value):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _dashes(style: Style) -> str:
    return f' stroke-dasharray="{style.dashes}"' if style.dashes else ""


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other
