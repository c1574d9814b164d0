"""Adaptive classification: policies that are fitted, executed and guaranteed."""

from .curve import CurvePoint, cascade_curve
from .execute import cascade_exit, cascade_predict
from .fit import fit_cascade
from .interval import Interval
from .plot import plot_cascade
from .policy import CascadePolicy, CascadeResult
from .report import CascadeReport, cascade_report
from .temperature import fit_temperatures

__all__ = [
    "CascadePolicy",
    "CascadeReport",
    "CascadeResult",
    "CurvePoint",
    "Interval",
    "cascade_curve",
    "cascade_exit",
    "cascade_predict",
    "cascade_report",
    "fit_cascade",
    "fit_temperatures",
    "plot_cascade",
]
