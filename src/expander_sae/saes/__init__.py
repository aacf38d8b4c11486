"""Sparse autoencoders: the Expander SAE, one with irregular degrees, and the dense control."""

from .base import AbstractSae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .init import InputStatistics, initialise, input_statistics, ordinary_tokens, set_input_scale
from .irregular import IrregularSae
from .load import load_sae
from .registry import CLASSES

__all__ = [
    "CLASSES",
    "AbstractSae",
    "DenseTopKSae",
    "ExpanderSae",
    "InputStatistics",
    "IrregularSae",
    "initialise",
    "input_statistics",
    "load_sae",
    "ordinary_tokens",
    "set_input_scale",
]
