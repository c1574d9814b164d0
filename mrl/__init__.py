"""Matryoshka Representation Learning as a framework-agnostic functional core.

One set of functions for NumPy, PyTorch, JAX and TensorFlow; the type of the arrays decides who computes.
Importing this imports NumPy and nothing heavier.
"""

from importlib import import_module
from typing import Any

from .accuracy import nested_accuracy
from .cascade import (
    CascadePolicy,
    CascadeReport,
    CascadeResult,
    CurvePoint,
    Interval,
    cascade_curve,
    cascade_exit,
    cascade_predict,
    cascade_report,
    fit_cascade,
    fit_temperatures,
    plot_cascade,
)
from .contrastive import nested_contrastive
from .dispatch import register
from .heads import NestedHead, NestedLoss, TiedHead
from .losses import nested, nested_cross_entropy, nested_logits, truncate
from .mapped import map_array
from .nesting import Nesting
from .porting import (
    BackendInfo,
    SavedHead,
    available_backends,
    convert,
    init_head,
    load_head,
    read_head,
    read_matryoshka_card,
    save_head,
    write_head,
    write_matryoshka_card,
)
from .posthoc import Adaptor, Rotation, fit_adaptor, fit_rotation, load_transform, save_transform
from .report import Report, report
from .retrieval import (
    Database,
    FunnelChoice,
    FunnelPlan,
    SearchResult,
    funnel_search,
    load_database,
    metrics,
    plan_funnel,
    prepare_database,
    rerank,
    save_database,
    search,
)

__version__ = "0.1.0"

__all__ = [
    "Adaptor",
    "BackendInfo",
    "CascadePolicy",
    "CascadeReport",
    "CascadeResult",
    "CurvePoint",
    "Database",
    "FunnelChoice",
    "FunnelPlan",
    "Interval",
    "NestedHead",
    "NestedLoss",
    "Nesting",
    "Report",
    "Rotation",
    "SavedHead",
    "SearchResult",
    "TiedHead",
    "available_backends",
    "cascade_curve",
    "cascade_exit",
    "cascade_predict",
    "cascade_report",
    "convert",
    "fit_adaptor",
    "fit_cascade",
    "fit_rotation",
    "fit_temperatures",
    "funnel_search",
    "init_head",
    "load_database",
    "load_head",
    "load_transform",
    "map_array",
    "metrics",
    "nested",
    "nested_accuracy",
    "nested_contrastive",
    "nested_cross_entropy",
    "nested_logits",
    "plan_funnel",
    "plot_cascade",
    "prepare_database",
    "read_head",
    "read_matryoshka_card",
    "register",
    "report",
    "rerank",
    "save_database",
    "save_head",
    "save_transform",
    "search",
    "truncate",
    "write_head",
    "write_matryoshka_card",
]


def __getattr__(name: str) -> Any:
    # mrl.testing needs hypothesis and mrl.spec is rarely wanted: both load when they are asked for.
    if name in ("spec", "testing"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
