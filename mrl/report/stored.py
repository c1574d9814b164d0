"""A report as JSON, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..cascade import CascadePolicy, CurvePoint, Interval
from ..retrieval import FunnelPlan
from .values import Finding, Report, ReportCost, ReportDifference, ReportRow

FORMAT = "mrl.report"
VERSION = 1
LISTS: dict[str, Any] = {
    "rows": ReportRow,
    "differences": ReportDifference,
    "findings": Finding,
    "costs": ReportCost,
}


def to_json(report: Report) -> str:
    """The report as text; numbers are those of the report, to the last bit."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "title": report.title,
        "k": report.k,
        "sizes": list(report.sizes),
        "verdict": list(report.verdict),
        **{name: [entry._asdict() for entry in getattr(report, name)] for name in LISTS},
        "data": report.data,
        "funnel": None if report.funnel is None else json.loads(report.funnel.to_json()),
        "cascade": [_point(point) for point in report.cascade],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote.

    Raises:
        ValueError: the text is no such report; the message says why.
    """
    try:
        content = json.loads(text)
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is not {FORMAT!r}, version {VERSION}")
        funnel = content["funnel"]
        return Report(
            k=content["k"],
            sizes=tuple(content["sizes"]),
            verdict=tuple(content["verdict"]),
            data=content["data"],
            funnel=None if funnel is None else FunnelPlan.from_json(json.dumps(funnel)),
            cascade=tuple(_point_of(point) for point in content["cascade"]),
            title=content["title"],
            **{name: tuple(kind(**entry) for entry in content[name]) for name, kind in LISTS.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"text: expected a report as Report.to_json writes it, got another: {error}") from error


def _point(point: CurvePoint) -> dict[str, Any]:
    return {
        "policy": json.loads(point.policy.to_json()),
        **{name: getattr(point, name)._asdict() for name in point._fields[1:]},
    }


def _point_of(content: dict[str, Any]) -> CurvePoint:
    policy = CascadePolicy.from_json(json.dumps(content["policy"]))
    return CurvePoint(policy, *(Interval(**content[name]) for name in CurvePoint._fields[1:]))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no value of JSON")
