"""sparse_decode on the C++ core (CPU)."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core


def supports(codes: Tensor, values: Tensor, d_in: int) -> str | None:
    """Why the C++ core cannot take this call, or None if it can."""
    if codes.dtype != torch.float32 or values.dtype != torch.float32:
        return "the C++ core computes in float32; other types run on the reference"
    if d_in > 65536:
        return f"rows are 16-bit in the C++ core, so d_in may be at most 65536, not {d_in}"
    return None


def forward(
    indices: Tensor, codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int, offset: Tensor | None = None
) -> Tensor:
    """x_hat [batch, d_in]."""
    out = torch.empty((indices.shape[0], d_in), dtype=torch.float32, device="cpu")
    core.call(
        "decode",
        core.plain(indices),
        core.plain(codes),
        core.rows16(rows),
        core.plain(values),
        core.plain(offset),
        torch.get_num_threads(),
        out,
    )
    return out


def backward(
    grad_out: Tensor,
    indices: Tensor,
    codes: Tensor,
    rows: Tensor | None,
    values: Tensor,
    needs_codes: bool,
    needs_values: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in codes and values."""
    grad_codes = torch.empty_like(codes) if needs_codes else None
    grad_values = torch.empty_like(values) if needs_values else None
    core.call(
        "decode_backward",
        core.plain(indices),
        core.plain(codes),
        core.rows16(rows),
        core.plain(values),
        core.plain(grad_out),
        torch.get_num_threads(),
        grad_codes,
        grad_values,
    )
    return grad_codes, grad_values
