"""Readings: every way to find the codes of activations over a dictionary, by one pass or by sparse recovery."""

from expander_sae.ops.dictionary import Dictionary

from .cosamp import CoSaMP
from .encoder import Encoder
from .gradient_pursuit import GradientPursuit
from .matching import MatchingPursuit
from .niht import NIHT
from .nonnegative import NonNegativeOMP
from .omp import OMP, WarmOMP
from .pursuit import Pursuit
from .reading import Reading
from .readings import DEFAULT_READING, READINGS, parse_reading, reading_names
from .refit import Refit, Refitted, refit_codes
from .stages import Stages, in_stages

__all__ = [
    "DEFAULT_READING",
    "NIHT",
    "OMP",
    "READINGS",
    "CoSaMP",
    "Dictionary",
    "Encoder",
    "GradientPursuit",
    "MatchingPursuit",
    "NonNegativeOMP",
    "Pursuit",
    "Reading",
    "Refit",
    "Refitted",
    "Stages",
    "WarmOMP",
    "in_stages",
    "parse_reading",
    "reading_names",
    "refit_codes",
]
