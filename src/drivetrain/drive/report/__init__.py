"""The report: one HTML page, from the artifacts of a run alone."""

from .page import write_report

__all__ = ["write_report"]
