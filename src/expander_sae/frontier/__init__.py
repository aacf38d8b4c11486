"""Fidelity against size over a sweep of degrees, with the dense controls that make it mean something."""

from .over_seeds import Spread, spread
from .pieces import EvaluationSettings
from .report import write_report
from .results import Frontier, Summary, load_frontier
from .sweep import run_frontier
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
    "spread",
    "write_report",
]
