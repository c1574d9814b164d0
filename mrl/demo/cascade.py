"""Adaptive classification of the demo's models: fitted on the held-out images, reported on the test images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..cascade.fit import fit_cascade
from ..cascade.plot import plot_cascade
from ..cascade.policy import CascadePolicy
from ..cascade.report import CascadeReport, cascade_report
from ..nesting import Nesting
from .data import Dataset
from .evaluate import Evaluation

DROP = 0.02
"""What the guaranteed policy may lose: held-out sets of this size prove nothing finer."""


class Cascade(NamedTuple):
    """A policy and how it does on the test images."""

    policy: CascadePolicy
    report: CascadeReport


def fit_all(evaluation: Evaluation, data: Dataset, nesting: Nesting) -> dict[str, Cascade]:
    """The paper's policy, the best at its price, the cheapest as accurate as the full model, and the guaranteed."""
    held_out, labels = evaluation.held_out_logits, data.held_out.labels
    full = float((held_out[-1].argmax(-1) == labels).mean())

    def fit(**options: Any) -> CascadePolicy:
        return fit_cascade(held_out, labels, nesting, logits=True, **options)

    greedy = fit()
    policies = {
        "greedy": greedy,
        "budget": fit(method="budget", dim=dict(greedy.fitted)["expected_dim"]),
        "accuracy": fit(method="accuracy", target=full),
        "risk": fit(method="risk", drop=DROP),
    }
    return {
        name: Cascade(policy, cascade_report(evaluation.test_logits, data.test.labels, policy, logits=True))
        for name, policy in policies.items()
    }


def table(cascades: Mapping[str, Mapping[str, Cascade]]) -> str:
    """Model x policy: accuracy and dimensions on the test images, with intervals at 95 %."""
    names = "".join(f"{name:>22}" for name in ("accuracy, %", "expected dims", "dims added up"))
    lines = [f"{'model':8}{'policy':10}{names}{'oracle, %':>11}{'its dims':>10}"]
    for family, by in cascades.items():
        for name, (_, report) in by.items():
            accuracy = [f"{100 * x:.1f}" for x in report.accuracy]
            dims, added = ([f"{x:.1f}" for x in interval] for interval in (report.expected_dim, report.cumulative_dim))
            cells = "".join(f"{f'{x} [{low}, {high}]':>22}" for x, low, high in (accuracy, dims, added))
            oracle = f"{100 * report.oracle_accuracy.value:>11.1f}{report.oracle_dim.value:>10.1f}"
            lines.append(f"{family:8}{name:10}{cells}{oracle}")
    return "\n".join(lines)


def sentence(family: str, cascade: Cascade) -> str:
    """How many dimensions an example needs for the full model's accuracy, and whether that accuracy was reached."""
    report, full = cascade.report, cascade.report.level_accuracies[-1].value
    dim, gap = report.expected_dim, report.against_full
    low, high = (100 * x for x in gap[1:])
    if high < 0:
        verdict = "so it does not reach it"
    elif low > 0:
        verdict = "so it passes it"
    else:
        verdict = "which is within the noise"
    return (
        f"{family}: for the full model's accuracy an example needs {dim.value:.1f} [{dim.low:.1f}, {dim.high:.1f}] of "
        f"{report.dims[-1]} dimensions on average; on the test images that gives {100 * report.accuracy.value:.1f} % "
        f"where all dimensions give {100 * full:.1f} %, a difference of {100 * gap.value:+.2f} [{low:+.2f}, "
        f"{high:+.2f}] points, {verdict}."
    )


def to_dict(cascades: Mapping[str, Mapping[str, Cascade]]) -> dict[str, Any]:
    """Policies and reports as plain values."""
    return {
        family: {
            name: {
                "thresholds": list(policy.thresholds),
                "fitted": dict(policy.fitted),
                "report": report.to_dict(),
            }
            for name, (policy, report) in by.items()
        }
        for family, by in cascades.items()
    }


def figure(evaluation: Evaluation, data: Dataset, cascades: Mapping[str, Cascade], title: str, path: Path) -> None:
    """The fitted policies among those with one threshold for all levels."""
    dims = next(iter(cascades.values())).policy.dims
    family = [
        CascadePolicy((t,) * (len(dims) - 1), dims) for t in (0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
    ]
    policies: dict[str, CascadePolicy | list[CascadePolicy]] = {"one threshold for all levels": family}
    policies.update({name: policy for name, (policy, _) in cascades.items()})
    plot_cascade(evaluation.test_logits, data.test.labels, policies, logits=True, title=title, path=path)
