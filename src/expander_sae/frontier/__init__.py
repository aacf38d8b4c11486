"""Fidelity against size over a sweep of degrees, with the dense controls that make it mean something."""

from .report import write_report
from .results import Frontier, Spread, Summary, load_frontier
from .sweep import EvaluationSettings, run_frontier
from .variants import CONTROLS, Variant, plan

__all__ = [
    "CONTROLS",
    "EvaluationSettings",
    "Frontier",
    "Spread",
    "Summary",
    "Variant",
    "load_frontier",
    "plan",
    "run_frontier",
    "write_report",
]
