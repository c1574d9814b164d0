"""What methods, metrics and measurements are called where people read."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .values import METHODS

METHOD_WORDS = {
    "prefix": "prefix",
    "pca": "PCA",
    "random": "random coordinates",
    "unnormalized": "unnormalised prefix",
    "last": "last coordinates",
    "int8": "int8 prefix",
    "binary": "binary prefix",
    "rotation": "rotated prefix",
    "adaptor": "adapted prefix",
    "full": "full width",
}

METRICS = (
    "recall_at_k",
    "rank_correlation",
    "nn_accuracy",
    "linear_accuracy",
    "fewshot_accuracy",
    "rare_accuracy",
    "precision_at_k",
    "map_at_k",
    "ndcg_at_k",
)
"""The order of metrics in figures and tables; what is not here comes last."""

METRIC_WORDS = {
    "recall_at_k": ("recall@{k}", "how many of the {k} nearest neighbours at full width are still found"),
    "rank_correlation": (
        "rank correlation",
        "how well the order of scores at full width is kept; 1 is all of it",
    ),
    "nn_accuracy": ("1-NN accuracy", "how often the nearest neighbour has the right label"),
    "linear_accuracy": ("linear accuracy", "how often a linear classifier is right on rows that it was not fitted on"),
    "rare_accuracy": (
        "accuracy on rare classes",
        "how often the nearest class mean is right for the classes with the fewest rows",
    ),
    "precision_at_k": ("precision@{k}", "how many of the first {k} results are relevant"),
    "map_at_k": ("mAP@{k}", "mean average precision of the first {k} results"),
    "ndcg_at_k": ("nDCG@{k}", "how well the first {k} results are ordered by relevance"),
}

PLAIN = {"rank_correlation"}
"""Metrics that are numbers and no shares: they are not shown in percent."""

DATA_WORDS = {
    "rows": "rows given",
    "rows_left_out": "of these left out, with NaN or infinity",
    "rows_searched": "rows searched",
    "width": "dimensions at full width",
    "dtype": "number format",
    "metric": "similarity",
    "queries": "queries asked",
    "queries_given": "queries given",
    "queries_left_out": "of these left out, with NaN or infinity",
    "query_rows": "rows that were queries",
    "labelled_queries": "queries with a label",
    "rows_fitted": "rows that classifiers were fitted on",
    "rows_held_out": "rows that they were measured on",
    "duplicates": "rows equal to an earlier one",
    "constant_dims": "dimensions that are the same in all rows",
    "seed": "seed of all draws",
    "sample": "queries asked for",
    "confidence_level": "level of the intervals",
    "price": "price of a gigabyte of memory",
    "backend": "computed with",
}
DEFINITIONS = "definitions"
"""The entry of ``Report.data`` that says what methods and metrics are."""
QUIET = {"rows_as_queries", "sampled_queries"}
"""Findings that belong to how it was measured, and warn of nothing."""
COUNTED = {"rows": "rows", "queries": "queries", "classes": "classes", "width": "dimensions"}
"""Counts of ``Report.data`` that the head of the page has, if they are there."""


def method_label(method: str) -> str:
    """What readers call a way to a smaller embedding."""
    return METHOD_WORDS.get(method, method.replace("_", " "))


def metric_label(metric: str, k: int) -> str:
    """What readers call a metric."""
    if shots := _shots(metric):
        return f"{shots}-shot accuracy"
    return METRIC_WORDS[metric][0].format(k=k) if metric in METRIC_WORDS else metric.replace("_", " ")


def metric_meaning(metric: str, k: int) -> str:
    """What a metric is, as a clause; empty where nothing is known of it."""
    if shots := _shots(metric):
        rows = "one row" if shots == "1" else f"{shots} rows"
        return f"how often the nearest class mean is right, where each mean is of {rows}"
    return METRIC_WORDS[metric][1].format(k=k) if metric in METRIC_WORDS else ""


def in_percent(metric: str) -> bool:
    """Whether a metric is a share."""
    return metric not in PLAIN


def data_label(key: str) -> str:
    """What readers call an entry of ``Report.data``."""
    return DATA_WORDS.get(key, key.replace("_", " "))


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Without repetition, in the order of :data:`METHODS`; unknown ones last, as they came."""
    found = list(dict.fromkeys(methods))
    return sorted(found, key=lambda name: METHODS.index(name) if name in METHODS else len(METHODS))


def ordered_metrics(metrics: Iterable[str]) -> list[str]:
    """Without repetition, in the order of :data:`METRICS`, few shots before many; unknown ones last, as they came."""

    def place(metric: str) -> tuple[int, int]:
        shots = _shots(metric)
        name = "fewshot_accuracy" if shots else metric
        return (METRICS.index(name) if name in METRICS else len(METRICS), int(shots or 0))

    return sorted(dict.fromkeys(metrics), key=place)


def _shots(metric: str) -> str:
    match = re.fullmatch(r"fewshot_accuracy_(\d+)", metric)
    return match[1] if match else ""
