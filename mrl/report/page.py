"""The report as one HTML file: no network, no script, figures that can be heard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from . import digits
from .figures import legend
from .lookup import metrics_of
from .panels import against_bytes, against_size, cascade_points, funnel_frontier, stages
from .style import css
from .tables import cascade_table, cost_table, differences_table, funnel_table, metric_table, sizes_table
from .values import Report
from .words import (
    COUNTED,
    DEFINITIONS,
    METHOD_WORDS,
    QUIET,
    data_label,
    in_percent,
    method_label,
    metric_label,
    metric_meaning,
)

QUESTION = "Can these embeddings be cut, to what size, and what does it cost?"
TALL, SHORT = 330.0, 150.0
"""Pixels of a figure's height: alone, and among others."""

LISTED = 48
"""Entries of a list that the page has; of more it says how many."""

NUMBER = r"[+\N{MINUS SIGN}-]?\d[\d,.]*(?: ?%)?"
RANGE = re.compile(rf"\(({NUMBER} to {NUMBER}[^()]*)\)")


def to_html(report: Report) -> str:
    """The report as a page that needs nothing but itself.

    Args:
        report: what was measured.

    Returns:
        The text of the file, to be written in UTF-8.

    Example:
        >>> from mrl.report.page import to_html
        >>> from mrl.report.values import Report, ReportRow
        >>> rows = (ReportRow("prefix", 64, "recall_at_k", 0.991, 0.988, 0.994),)
        >>> report = Report(rows, (), 10, (64,), ("64 dimensions keep 99.1 % of recall@10.",), (), {}, ())
        >>> "<script" in to_html(report), "recall@10" in to_html(report)
        (False, True)
    """
    sections = [
        _figures(report),
        _others(report),
        _costs(report),
        _funnel(report),
        _cascade(report),
        _numbers(report),
        _data(report),
    ]
    kept = [section for section in sections if section]
    contents = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in kept)
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{inside}</section>'
        for name, title, inside in kept
    )
    nav = f'<nav aria-label="On this page"><ul>{contents}</ul></nav>' if kept else ""
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}: can it be cut?</title><style>{css()}</style></head>\n<body>"
        f"<header><h1>{title}</h1>{_facts(report)}</header>\n"
        f"<main>{_verdict(report)}{_findings(report)}{nav}{body}</main>\n"
        f"<footer><p>Made by mrl report. The page needs no network; report.json holds the same numbers.</p></footer>"
        "</body></html>\n"
    )


def _facts(report: Report) -> str:
    counts = [
        f"{digits.count(report.data[key])} {word}"
        for key, word in COUNTED.items()
        if isinstance(report.data.get(key), int) and report.data[key] > 0
    ]
    return f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in [*counts, f"k = {report.k}"])}</p>'


def _verdict(report: Report) -> str:
    known = {finding.text for finding in report.findings}  # they have a place of their own
    said = [sentence for sentence in report.verdict if sentence not in known]
    lead, *rest = said or ["Nothing could be measured."]
    more = "".join(f"<li>{_sentence(one)}</li>" for one in rest)
    return (
        f'<section class="verdict" aria-labelledby="verdict"><h2 id="verdict">{QUESTION}</h2>'
        f'<p class="lead">{_sentence(lead)}</p>{f"<ul>{more}</ul>" if more else ""}</section>'
    )


def _sentence(text: str) -> str:
    """Escaped, with intervals in a quieter voice and no line that begins with a percent sign."""
    text = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
    spaced = NUMBER.replace(" ?", "\N{NO-BREAK SPACE}?")
    return re.sub(rf"\(({spaced} to {spaced})\)", r'<span class="range">(\1)</span>', escape(text, quote=False))


def _findings(report: Report) -> str:
    items = "".join(f"<li>{_sentence(one.text)}</li>" for one in report.findings if one.name not in QUIET)
    if not items:
        return ""
    return (
        '<section class="findings" aria-labelledby="findings"><h2 id="findings">Know this first</h2>'
        f"<ul>{items}</ul></section>"
    )


Section = tuple[str, str, str] | None


def _figures(report: Report) -> Section:
    metrics = metrics_of(report)
    if not metrics:
        return None
    first = metrics[0]
    label = metric_label(first, report.k)
    svg, series = against_size(report, first, "figure-main", TALL)
    about = f'<p class="note-text">{escape(_about(first, report))}</p>'
    words = f"Bars, and the band of the prefix, are {_level(report)}intervals."
    return (
        "sizes",
        f"{label} at each size",
        (f"{about}<figure>{legend(series)}{svg}<figcaption>{escape(words)}</figcaption></figure>{sizes_table(report)}"),
    )


def _others(report: Report) -> Section:
    rest = metrics_of(report)[1:]
    if not rest:
        return None
    drawn = [(metric, *against_size(report, metric, f"figure-{i}", SHORT, small=True)) for i, metric in enumerate(rest)]
    everything = {one.label: one for _, _, series in drawn for one in series}
    about = '<p class="note-text">Against the dimensions kept, as above; each has its own scale.</p>'
    panels = "".join(
        f"<figure><div><h3>{escape(metric_label(metric, report.k))}{', %' if in_percent(metric) else ''}</h3>"
        f"<figcaption>{escape(_about(metric, report))}</figcaption></div>{svg}</figure>"
        for metric, svg, _ in drawn
    )
    return (
        "measures",
        "Other measures",
        f'{about}{legend(list(everything.values()))}<div class="multiples">{panels}</div>',
    )


def _costs(report: Report) -> Section:
    if not report.costs:
        return None
    metrics = metrics_of(report)
    found = against_bytes(report, metrics[0], "figure-bytes", TALL) if metrics else None
    figure = ""
    if found:
        svg, key = found
        words = "The same bytes buy more dimensions at fewer bits: what is higher keeps more at the same weight."
        figure = f"<figure>{key}{svg}<figcaption>{words}</figcaption></figure>"
    return "cost", "What it costs", figure + cost_table(report)


def _funnel(report: Report) -> Section:
    plan = report.funnel
    if plan is None:
        return None
    svg, key = funnel_frontier(plan, "figure-funnel", TALL)
    share = digits.number(plan.multiply_adds / plan.exact_multiply_adds, 1)
    words = (
        f"A shortlist with few dimensions is put in order with more. Chosen: "
        f"{stages(plan.dims, plan.shortlists)}. That finds {digits.sentence(*plan.recall)} of the {plan.k} nearest of "
        f"{plan.rows:,} rows, for {share} % of the multiply-adds of an exact search; {plan.queries:,} queries were "
        "held out of the choice."
    )
    every = ""
    if len(plan.frontier) > 9:
        every = (
            f"<details><summary>All {len(plan.frontier)} funnels</summary>{funnel_table(plan, every=True)}</details>"
        )
    return (
        "funnel",
        "Search in stages",
        (
            f'<p class="note-text">{_sentence(words)}</p><figure>{key}{svg}</figure>{funnel_table(plan)}'
            f'<div class="stack">{every}</div>'
        ),
    )


def _cascade(report: Report) -> Section:
    if not report.cascade:
        return None
    svg, _ = cascade_points(report, "figure-cascade", TALL)
    words = (
        "A classifier asks the smallest prefix first and goes on to a longer one only where it is not sure enough: "
        "accuracy against the dimensions that an answer takes on average."
    )
    return (
        "cascade",
        "Classify in stages",
        (
            f'<p class="note-text">{words}</p>'
            f"<figure>{svg}<figcaption>Bars are intervals, of both.</figcaption></figure>"
            f"{cascade_table(report)}"
        ),
    )


def _numbers(report: Report) -> Section:
    metrics = metrics_of(report)
    if not metrics:
        return None
    parts = []
    for metric in metrics:
        meaning = metric_meaning(metric, report.k)
        words = f"<span>{escape(meaning)}</span>" if meaning else ""
        parts.append(
            f"<details><summary>{escape(metric_label(metric, report.k))}{words}</summary>"
            f"{metric_table(report, metric)}{differences_table(report, metric)}</details>"
        )
    return "numbers", "All figures", f'<div class="stack">{"".join(parts)}</div>'


def _data(report: Report) -> Section:
    quiet = "".join(f'<p class="note-text">{_sentence(one.text)}</p>' for one in report.findings if one.name in QUIET)
    entries = {"k": report.k, "sizes": list(report.sizes)} | report.data
    defined = entries.pop(DEFINITIONS, None)
    words = _terms({data_label(key): _plain(value) for key, value in entries.items()})
    if isinstance(defined, dict):
        methods = {method_label(key) if key in METHOD_WORDS else metric_label(key, report.k): key for key in defined}
        words += "<h3>What the names mean</h3>" + _terms({name: str(defined[key]) for name, key in methods.items()})
    return "method", "How it was measured", quiet + words


def _terms(entries: dict[str, str]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries.items())
    return f"<dl>{items}</dl>"


def _level(report: Report) -> str:
    level = report.data.get("confidence_level")
    return f"{100 * level:g}\N{NO-BREAK SPACE}% " if isinstance(level, float) else ""


def _about(metric: str, report: Report) -> str:
    meaning = metric_meaning(metric, report.k)
    return f"{meaning[:1].upper()}{meaning[1:]}." if meaning else ""


def _plain(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "; ".join(f"{data_label(str(key))}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > LISTED:
            return f"{len(value):,}, which report.json lists"
        return ", ".join(_plain(inner) for inner in value)
    return str(value)
