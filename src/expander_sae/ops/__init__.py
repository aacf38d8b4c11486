"""The kernels: plain tensors in, plain tensors out."""

from . import operators
from .block_omp import block_omp
from .codes import Codes
from .correlate import correlate, support_gram
from .dictionary import Dictionary
from .encode_topk import encode_topk
from .instruction_set import instruction_sets, use_instruction_set
from .reconstruction_loss import ReconstructionLoss, reconstruction_loss
from .sparse_decode import sparse_decode
from .unit_columns import unit_columns

__all__ = [
    "Codes",
    "Dictionary",
    "ReconstructionLoss",
    "block_omp",
    "correlate",
    "encode_topk",
    "instruction_sets",
    "operators",
    "reconstruction_loss",
    "sparse_decode",
    "support_gram",
    "unit_columns",
    "use_instruction_set",
]
