"""Sparse autoencoders: the Expander SAE, one with irregular degrees, and the dense control."""

from .base import AbstractSae
from .checkpoint import load_sae, save_sae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .inference import INFERENCES, Inference, usual_spare
from .init import InputStatistics, initialise, input_statistics, ordinary_tokens, set_input_scale
from .irregular import IrregularSae

__all__ = [
    "INFERENCES",
    "AbstractSae",
    "DenseTopKSae",
    "ExpanderSae",
    "Inference",
    "InputStatistics",
    "IrregularSae",
    "initialise",
    "input_statistics",
    "load_sae",
    "ordinary_tokens",
    "save_sae",
    "set_input_scale",
    "usual_spare",
]
