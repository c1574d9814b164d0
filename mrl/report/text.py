"""A report as plain text, for a terminal."""

from __future__ import annotations

from textwrap import wrap

from .values import METHODS, Report

WIDTH = 100


def to_text(report: Report) -> str:
    """The verdict, and the figures of the prefix and of the other methods, in percent."""
    data = report.data
    lines = [
        f"{report.title}: {data['rows']:,} rows of {data['width']:,} dimensions, {data['metric']}, "
        f"{data['queries']:,} queries",
        "",
    ]
    for sentence in report.verdict:
        lines += wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ")
    known = {row[:3]: row for row in report.rows}
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    for metric in metrics:
        methods = [name for name in METHODS if any((name, m, metric) in known for m in report.sizes)]
        lines += ["", f"{metric.replace('_at_k', f'@{report.k}')}, %"]
        lines.append(f"{'dims':>6}{'prefix':>9} {'':18}" + "".join(f"{name:>13}" for name in methods[1:]))
        for m in report.sizes:
            row = known.get(("prefix", m, metric))
            if row is None:
                continue
            ends = f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
            others = [known.get((name, m, metric)) for name in methods[1:]]
            cells = "".join(f"{'' if other is None else f'{100 * other.value:.1f}':>13}" for other in others)
            lines.append(f"{m:>6}{100 * row.value:>9.1f} {ends:18}{cells}")
    return "\n".join(lines)
