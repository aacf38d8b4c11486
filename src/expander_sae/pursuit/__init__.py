"""Sparse recovery: codes of a fixed dictionary by pursuit instead of one pass of the encoder."""

from .dictionary import Dictionary, SparseDictionary, as_dictionary
from .pursue import METHODS, pursue
from .refit import Refit, refit_codes

__all__ = ["METHODS", "Dictionary", "Refit", "SparseDictionary", "as_dictionary", "pursue", "refit_codes"]
