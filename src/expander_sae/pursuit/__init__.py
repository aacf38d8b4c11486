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
from .readings import DEFAULT_READING, READINGS, as_numbers, in_stages, of_numbers, parse_reading, reading_names
from .refit import Refit, Refitted, refit_codes
from .stages import Stages

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
    "as_numbers",
    "in_stages",
    "of_numbers",
    "parse_reading",
    "reading_names",
    "refit_codes",
]
