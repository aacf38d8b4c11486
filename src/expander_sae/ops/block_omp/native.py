"""block_omp on the C++ core (CPU)."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core
from expander_sae.ops.block_omp import dense


def supports(x: Tensor, rows: Tensor | None, values: Tensor) -> str | None:
    """Why the C++ core cannot take this call, or None if it can."""
    if x.dtype == torch.float64 or values.dtype == torch.float64:
        return "the C++ core computes in float32; float64 runs on the reference"
    if x.shape[1] > 65536:
        return f"rows are 16-bit in the C++ core, so d_in may be at most 65536, not {x.shape[1]}"
    return None


def forward(
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    k: int,
    block: int,
    signed: bool,
    tolerance: float,
    center: Tensor | None,
) -> tuple[Tensor, Tensor, int]:
    """Indices, values, and how many picked columns were dependent on the support and skipped."""
    if rows is None:
        centered = x.to(values.dtype) if center is None else x.to(values.dtype) - center
        return *dense.forward(centered.detach(), values.detach(), k, block, signed, tolerance), 0
    indices = torch.empty((x.shape[0], k), dtype=torch.int64)
    codes = torch.empty((x.shape[0], k), dtype=torch.float32)
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
            signed,
            tolerance,
            torch.get_num_threads(),
            indices,
            codes,
        )
    return indices, codes, dependent
