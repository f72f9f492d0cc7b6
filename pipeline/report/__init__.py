"""The page a person reviews a study on: one HTML file that needs nothing else."""

from pipeline.candidate.details import LayerDetail
from pipeline.report.data import ReportData, hypervolume_history
from pipeline.report.page import render

__all__ = ["LayerDetail", "ReportData", "hypervolume_history", "render"]
