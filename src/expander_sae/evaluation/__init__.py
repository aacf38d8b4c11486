"""How good an SAE is: reconstruction, and cross entropy under the splice; docs/reference/metrics.md defines them."""

from .cross_entropy import SPLICES, CrossEntropyMetrics, cross_entropy, spread_blocks
from .evaluate import bytes_on_disk, evaluate
from .reconstruction import ReconstructionAccumulator, ReconstructionMetrics

__all__ = [
    "SPLICES",
    "CrossEntropyMetrics",
    "ReconstructionAccumulator",
    "ReconstructionMetrics",
    "bytes_on_disk",
    "cross_entropy",
    "evaluate",
    "spread_blocks",
]
