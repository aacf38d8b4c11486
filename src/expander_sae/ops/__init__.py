"""The kernels: plain tensors in, plain tensors out."""

from .codes import Codes
from .encode_topk import encode_topk
from .reconstruction_loss import ReconstructionLoss, reconstruction_loss
from .sparse_decode import sparse_decode

__all__ = ["Codes", "ReconstructionLoss", "encode_topk", "reconstruction_loss", "sparse_decode"]
