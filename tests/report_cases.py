"""Reports with plausible figures, for the tests of what is made from one."""

import math

import numpy as np

import mrl
from mrl.cascade.curve import CurvePoint
from mrl.report.values import Finding, Report, ReportCost, ReportDifference, ReportRow

SIZES = (16, 32, 64, 128, 256, 512, 768)
METHODS = ("prefix", "pca", "random", "unnormalized", "last", "int8", "binary")
LABELLED = ("nn_accuracy", "linear_accuracy", "fewshot_accuracy_1", "fewshot_accuracy_5", "fewshot_accuracy_10")
LABELLED += ("rare_accuracy", "precision_at_k", "map_at_k", "ndcg_at_k")
METRICS = ("recall_at_k", "rank_correlation", *LABELLED)
VERDICT = (
    "256 of 768 dimensions keep 99.1 % (98.8 to 99.4) of recall@10.",
    "PCA at 256 dimensions keeps 98.7 % (98.3 to 99.0), so the nested prefix gains little here.",
    "Below 64 dimensions it is not safe: at 32 only 71 % (69 to 73) of the neighbours are found.",
    "With 64, then 768 dimensions, and a shortlist of 100 you keep 99.9 % (99.8 to 100.0) at 9 % of the cost.",
    "2,000 of 100,000 rows, drawn at random, are the queries.",
)
FINDINGS = (
    Finding("duplicates", "1,204 of 100,000 rows are exact copies of another (1.2 %): recall looks better than it is."),
    Finding("rows_as_queries", "2,000 of 100,000 rows, drawn at random, are the queries."),
    Finding("unnormalized", "Rows are not of unit length (0.71 to 1.32): store them normalised, or search by cosine."),
)
REACH = {"pca": 0.75, "random": 3.2, "unnormalized": 1.3, "last": 4.5, "int8": 1.05, "binary": 2.6}


def costs_of(methods, sizes, price):
    found = []
    for method in methods:
        for dim in sizes:
            weight = dim / 8 if method == "binary" else dim if method == "int8" else 4 * dim
            paid = None if price is None else weight * 1e6 / 1e9 * price
            found.append(ReportCost(method, dim, weight, weight * 1e6, paid, dim * 1e6))
    return tuple(found)


def make_plan(seed=0):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(1500, 64)) * 0.93 ** np.arange(64)).astype(np.float32)
    return mrl.plan_funnel(rows[:200], rows, (8, 16, 32, 64), k=10, recall=0.98)


def make_curve(count=5):
    points = []
    for i in range(count):
        dim, right = 17.0 + 9 * i**1.7, 0.86 + 0.02 * i - 0.0015 * i * i
        policy = mrl.CascadePolicy((0.5 + i / 20,), (16, 768))
        interval = mrl.Interval
        points.append(
            CurvePoint(
                policy,
                interval(dim, dim * 0.96, dim * 1.05),
                interval(dim * 1.4, dim * 1.3, dim * 1.5),
                interval(right, right - 0.006, right + 0.006),
            )
        )
    return tuple(points)


def make_report(
    *, methods=METHODS, sizes=SIZES, metrics=METRICS, seed=0, k=10, title="acme/text-encoder-768 on support tickets",
    price=3.2, verdict=VERDICT, findings=FINDINGS, funnel=None, cascade=(), change=None,
):  # fmt: skip
    """A report; ``change`` may replace each row."""
    rng = np.random.default_rng(seed)
    rows, differences = [], []
    for j, metric in enumerate(metrics):
        top = (1.0, 1.0, 0.9, 0.93, 0.55, 0.78, 0.83, 0.61, 0.72, 0.58, 0.79)[j % 11]
        for method in methods:
            for dim in sizes:
                need = 22.0 * REACH.get(method, 1.0) / (1 + j / 3)
                value = top * (1 - math.exp(-((dim / need) ** 0.8)))
                if dim == sizes[-1] and method != "binary":
                    value = top
                value = min(value + rng.normal() * 0.002, 1.0)
                half = 1.96 * math.sqrt(max(value * (1 - value), 0.0) / 2000)
                low, high = max(value - half, -1.0), min(value + half, 1.0)
                row = ReportRow(method, dim, metric, value, low, high)
                rows.append(change(row) if change else row)
                if method != "prefix":
                    differences.append(ReportDifference(method, dim, metric, 0.004 - half / 3, -half / 2, half))
    data = {
        "rows": 100_000, "width": sizes[-1] if sizes else 768, "queries": 2000, "classes": 45, "seed": 0,
        "confidence_level": 0.95,
        "dtype": "float32", "query_rows": list(range(2000)), "constant_dims": [], "queries_given": None,
        "definitions": {"prefix": "the first m dimensions", "recall_at_k": "share of the k nearest rows"},
    }  # fmt: skip
    return Report(
        tuple(rows), tuple(differences), k, tuple(sizes), verdict, findings, data, costs_of(methods, sizes, price),
        funnel, cascade, title,
    )  # fmt: skip
