"""Can these embeddings be cut, to what, and what does it cost?"""

from .measure import report
from .values import Finding, Report, ReportCost, ReportDifference, ReportRow

__all__ = ["Finding", "Report", "ReportCost", "ReportDifference", "ReportRow", "report"]
