"""Fidelity against size over a sweep of degrees, with the dense controls that make it mean something.

Its public names are imported when they are first asked for: the table of families is read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .families import CONTROLS, FAMILIES, Family
    from .over_seeds import Spread, spread
    from .pieces import EvaluationSettings
    from .recipes import Recipe, load_recipe, recipe_names, recipe_of
    from .results import Frontier, Summary, load_frontier
    from .sweep import run_frontier
    from .variants import Variant, plan

_FILES = {
    "CONTROLS": "families",
    "EvaluationSettings": "pieces",
    "FAMILIES": "families",
    "Family": "families",
    "Frontier": "results",
    "Recipe": "recipes",
    "Spread": "over_seeds",
    "Summary": "results",
    "Variant": "variants",
    "load_frontier": "results",
    "load_recipe": "recipes",
    "plan": "variants",
    "recipe_names": "recipes",
    "recipe_of": "recipes",
    "run_frontier": "sweep",
    "spread": "over_seeds",
}
__all__ = [
    "CONTROLS",
    "FAMILIES",
    "EvaluationSettings",
    "Family",
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
]


def __getattr__(name: str) -> Any:
    """A public name, out of its file."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FILES[name]}", __name__), name)
