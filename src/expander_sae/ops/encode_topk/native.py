"""encode_topk on the C++ core (CPU)."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core
from expander_sae.ops.encode_topk import dense


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
    bias: Tensor | None,
    center: Tensor | None,
    signed: bool,
    tile: int = 0,
) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest pre-activations; `tile` tokens at a time (0 chooses)."""
    if rows is None:
        return dense.forward(x, values, k, bias, center, signed)
    indices = torch.empty((x.shape[0], k), dtype=torch.int64, device="cpu")
    codes = torch.empty((x.shape[0], k), dtype=torch.float32, device="cpu")
    if x.shape[0]:
        core.call(
            "encode_topk",
            core.plain(x),
            core.plain(center),
            core.rows16(rows),
            core.plain(values),
            core.plain(bias),
            k,
            signed,
            torch.get_num_threads(),
            tile,
            indices,
            codes,
        )
    return indices, codes


def backward(
    grad_codes: Tensor,
    indices: Tensor,
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    center: Tensor | None,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients in x, values and bias; a code without gradient has a zero in `grad_codes`."""
    grad_x = torch.empty(x.shape, dtype=torch.float32, device="cpu") if needs_x else None
    grad_values = torch.empty_like(values) if needs_values else None
    grad_bias = torch.empty(values.shape[0], dtype=torch.float32, device="cpu") if needs_bias else None
    core.call(
        "encode_backward",
        core.plain(indices),
        core.plain(grad_codes),
        core.plain(x),
        core.plain(center),
        core.rows16(rows),
        core.plain(values),
        torch.get_num_threads(),
        grad_x,
        grad_values,
        grad_bias,
    )
    return grad_x, grad_values, grad_bias
