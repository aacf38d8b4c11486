"""How good an SAE is: reconstruction, and what it costs the language model. `docs/metrics.md` defines every number."""

from .cross_entropy import SPLICES, CrossEntropyMetrics, cross_entropy, spread_blocks
from .reconstruction import ReconstructionAccumulator, ReconstructionMetrics

__all__ = [
    "SPLICES",
    "CrossEntropyMetrics",
    "ReconstructionAccumulator",
    "ReconstructionMetrics",
    "cross_entropy",
    "spread_blocks",
]
