"""Experiments: one question, one page; `experiment.py` says how to add one."""

from __future__ import annotations

import importlib

from expander_sae.records import ExpanderSaeError

from ..page import Figure, Page, Table
from .axes import EXPERIMENTS as ALONG
from .context import Context, Grid
from .experiment import Experiment
from .report import write_reports
from .run import run_experiment
from .settings import Settings

NAMES = (
    "frontier",
    "active-latents",
    "amortisation",
    "encoders",
    "support",
    "steps",
    "data-efficiency",
    "learning-curves",
    "layers",
    "latents",
    "stability",
    "coherence",
    "meaning",
    "recipes",
    "storage",
    "geometry",
    "collisions",
    "certified-tokens",
    "constraints",
    "synthetic",
    "worlds",
    "certificate-gap",
)
"""Every experiment, in the order of the report."""

__all__ = [
    "NAMES",
    "Context",
    "Experiment",
    "Figure",
    "Grid",
    "Page",
    "Settings",
    "Table",
    "find_experiment",
    "run_experiment",
    "write_reports",
]


def find_experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ExpanderSaeError: there is none.
    """
    if name not in NAMES:
        raise ExpanderSaeError(f"expected an experiment out of {', '.join(NAMES)}; got {name!r}")
    if name in ALONG:
        return ALONG[name]
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").EXPERIMENT
