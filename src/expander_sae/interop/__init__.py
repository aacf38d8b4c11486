"""Other libraries' SAEs: their files read and written here; `saelens` and `saebench` plug into them where installed."""

from .dense import dense_bytes, dense_weights, sae_from_dense
from .formats import READABLE, WRITABLE, detect_format, read_sae, write_sae
from .threshold import ThresholdSae
from .weights import DenseWeights

__all__ = [
    "READABLE",
    "WRITABLE",
    "DenseWeights",
    "ThresholdSae",
    "dense_bytes",
    "dense_weights",
    "detect_format",
    "read_sae",
    "sae_from_dense",
    "write_sae",
]
