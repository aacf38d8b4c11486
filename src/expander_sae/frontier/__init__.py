"""Fidelity against size over a sweep of degrees, with the dense controls that make it mean something.

Its public names are imported when they are first asked for: the table of families is read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .families import CONTROLS as CONTROLS
    from .families import FAMILIES as FAMILIES
    from .results import Frontier as Frontier
    from .results import load_frontier as load_frontier
    from .settings import EvaluationSettings as EvaluationSettings
    from .settings import Sweep as Sweep
    from .sweep import run_frontier as run_frontier
    from .variants import SaeOptions as SaeOptions
    from .variants import Variant as Variant
    from .variants import plan as plan

_FILES = {
    "CONTROLS": "families",
    "FAMILIES": "families",
    "EvaluationSettings": "settings",
    "Frontier": "results",
    "SaeOptions": "variants",
    "Sweep": "settings",
    "Variant": "variants",
    "load_frontier": "results",
    "plan": "variants",
    "run_frontier": "sweep",
}


def __getattr__(name: str) -> Any:
    """A public name, out of its file."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FILES[name]}", __name__), name)
