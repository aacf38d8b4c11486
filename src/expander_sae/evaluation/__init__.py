"""How good an SAE is: reconstruction, and cross entropy under the splice; `docs/metrics.md` has the formulas."""

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
