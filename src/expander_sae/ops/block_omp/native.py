"""block_omp on the C++ core (CPU)."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core
from expander_sae.ops.encode_topk.native import supports  # the same limits

__all__ = ["forward", "supports"]


def forward(
    x: Tensor,
    rows: Tensor,
    values: Tensor,
    k: int,
    block: int,
    spare: int,
    signed: bool,
    tolerance: float,
    center: Tensor | None,
) -> tuple[Tensor, Tensor, int]:
    """Indices, values, and how many picked columns were dependent on the support and skipped."""
    indices = torch.empty((x.shape[0], k), dtype=torch.int64, device="cpu")
    codes = torch.empty((x.shape[0], k), dtype=torch.float32, device="cpu")
    dependent = 0
    if x.shape[0]:
        dependent = core.call(
            "block_omp",
            core.plain(x),
            core.plain(center),
            core.rows16(rows),
            core.plain(values),
            k,
            block,
            spare,
            signed,
            tolerance,
            torch.get_num_threads(),
            indices,
            codes,
        )
    return indices, codes, dependent
