"""Fidelity against size over a sweep of degrees, with the dense controls that make it mean something."""

from .over_seeds import Spread, spread
from .pieces import EvaluationSettings
from .recipes import Recipe, load_recipe, recipe_names, recipe_of
from .report import write_report
from .results import Frontier, Summary, load_frontier
from .sweep import run_frontier
from .variants import CONTROLS, Variant, plan

__all__ = [
    "CONTROLS",
    "EvaluationSettings",
    "Frontier",
    "Recipe",
    "Spread",
    "Summary",
    "Variant",
    "load_frontier",
    "load_recipe",
    "plan",
    "recipe_names",
    "recipe_of",
    "run_frontier",
    "spread",
    "write_report",
]
