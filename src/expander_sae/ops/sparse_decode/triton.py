"""sparse_decode on an NVIDIA GPU, in Triton. Tested in the interpreter only: no GPU was to be had.

forward
    One lane per entry of a column and one warp for a few tokens, which adds the k columns of a token one after the
    other with plain loads and stores (see `decode_kernel`). k * degree read-modify-writes a token meet the L1 and
    L2 caches; memory sees the codes, the columns' values and rows (from L2) and [batch, d_in] once. All tokens of
    a batch of a few thousand are in flight together, so the k steps in a row cost latency once, not per token.

backward
    grad_codes is one gather per code. grad_values sorts the codes by latent and sums every latent's run in that
    order; latents not in use cost nothing but their zeros.

Everything adds in an order that depends on the inputs alone: two runs give the same bits.
"""

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

_ELEMENTS = 256  # entries a program of the gather kernels works on at once


def supports(codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int) -> str | None:
    """Why Triton cannot take this call, or None if it can."""
    if rows is None:
        return "the Triton kernels take a sparse dictionary; a dense one runs on the reference"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install 'expander-sae[triton]'"
    if not codes.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the Triton kernels run on CUDA tensors, these are on {codes.device}"
    if codes.dtype != torch.float32 or values.dtype != torch.float32:
        return "the Triton kernels compute in float32; other types run on the reference"
    return None


def kernel_rows(rows: Tensor) -> tuple[Tensor, bool]:
    """Rows as the kernels read them, and whether they are 16-bit (int16 with the bits of a uint16)."""
    if rows.dtype in (torch.uint16, torch.int16):
        return rows.contiguous().view(torch.int16), True
    if rows.dtype == torch.uint8:
        return rows.to(torch.int16).contiguous(), True
    return rows.to(torch.int32).contiguous(), False


def forward(indices: Tensor, codes: Tensor, rows: Tensor, values: Tensor, d_in: int) -> Tensor:
    """x_hat float32 [batch, d_in]: `x_hat[b, rows[j, e]] += codes[b, i] * values[j, e]`, j = indices[b, i].

    Args:
        indices: int64 [batch, k], below n_latents.
        codes: float32 [batch, k].
        rows: [n_latents, degree], any integer type, below d_in, distinct in a column.
        values: float32 [n_latents, degree].
        d_in: length of an activation.
    """
    batch, k = indices.shape
    out = torch.zeros((batch, d_in), dtype=torch.float32, device=codes.device)
    if out.numel() == 0 or k == 0:
        return out
    degree = values.shape[1]
    rows, narrow = kernel_rows(rows)
    lanes = power_of_two(degree)
    tokens = max(1, 32 // lanes)
    _kernels().decode_kernel[(-(-batch // tokens),)](
        indices.contiguous(),
        codes.contiguous(),
        rows,
        values.contiguous(),
        out,
        batch,
        d_in,
        k,
        NARROW=narrow,
        DEGREE=degree,
        LANES=lanes,
        TOKENS=tokens,
        num_warps=1,
        num_stages=1,  # a prefetched load could overtake the store before it
    )
    return out


def backward(
    grad_out: Tensor,
    indices: Tensor,
    codes: Tensor,
    rows: Tensor,
    values: Tensor,
    needs_codes: bool,
    needs_values: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in codes [batch, k] and values [n_latents, degree], float32; None if not needed."""
    grad_out = grad_out.contiguous()
    grad_codes = _code_gradient(grad_out, indices, rows, values) if needs_codes else None
    grad_values, _ = sum_per_latent(
        indices, codes, grad_out, rows, values.shape[0], None, needs_values, needs_bias=False
    )
    return grad_codes, grad_values


def _code_gradient(grad_out: Tensor, indices: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """`grad_codes[b, i] = sum_e values[j, e] * grad_out[b, rows[j, e]]` with j = indices[b, i], [batch, k]."""
    grad_codes = torch.empty(indices.shape, dtype=torch.float32, device=grad_out.device)
    if grad_codes.numel() == 0:
        return grad_codes
    degree = values.shape[1]
    rows, narrow = kernel_rows(rows)
    lanes = power_of_two(degree)
    per_program = max(1, _ELEMENTS // lanes)
    _kernels().code_gradient_kernel[(-(-indices.numel() // per_program),)](
        grad_out,
        indices.contiguous(),
        rows,
        values.contiguous(),
        grad_codes,
        indices.numel(),
        grad_out.shape[1],
        indices.shape[1],
        NARROW=narrow,
        DEGREE=degree,
        LANES=lanes,
        CODES=per_program,
        num_warps=2,
    )
    return grad_codes


def sum_per_latent(
    indices: Tensor,
    weights: Tensor,
    x: Tensor,
    rows: Tensor,
    n_latents: int,
    center: Tensor | None,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Per latent j, over all codes (b, i) with indices[b, i] = j, in the order of b:

    `grad_values[j, e] = sum weights[b, i] * (x - center)[b, rows[j, e]]` [n_latents, degree] and
    `grad_bias[j] = sum weights[b, i]` [n_latents], float32; None if not needed.
    """
    if not (needs_values or needs_bias):
        return None, None
    degree = rows.shape[1]
    grad_values = torch.zeros((n_latents, degree), dtype=torch.float32, device=x.device) if needs_values else None
    grad_bias = torch.zeros(n_latents, dtype=torch.float32, device=x.device) if needs_bias else None
    n_codes = indices.numel()
    if n_codes == 0:
        return grad_values, grad_bias
    rows, narrow = kernel_rows(rows)
    latents, order = torch.sort(indices.reshape(-1), stable=True)
    lanes = power_of_two(degree)
    unused = weights  # stands for a pointer the kernel does not follow
    _kernels().sum_per_latent_kernel[(min(n_codes, n_latents),)](
        latents,
        order,
        _run_starts(latents, n_latents),
        weights.float().contiguous(),
        x.contiguous(),
        unused if center is None else center.float().contiguous(),
        rows,
        unused if grad_values is None else grad_values,
        unused if grad_bias is None else grad_bias,
        n_codes,
        x.shape[1],
        indices.shape[1],
        HAS_CENTER=center is not None,
        NEEDS_VALUES=needs_values,
        NEEDS_BIAS=needs_bias,
        NARROW=narrow,
        DEGREE=degree,
        LANES=lanes,
        CODES=max(1, _ELEMENTS // lanes),
        num_warps=2,
    )
    return grad_values, grad_bias


def _run_starts(latents: Tensor, n_latents: int) -> Tensor:
    """Where each run of equal entries of `latents` (sorted) starts, padded with its length.

    The number of runs stays on the device: asking for it would make the host wait.
    """
    n_codes = latents.numel()
    most = min(n_codes, n_latents)
    head = torch.ones_like(latents, dtype=torch.bool)
    head[1:] = latents[1:] != latents[:-1]
    run = torch.cumsum(head, 0) - 1
    starts = torch.full((most + 2,), n_codes, dtype=torch.int64, device=latents.device)
    # Places that start no run write into the last entry, which nobody reads.
    starts.scatter_(0, torch.where(head, run, most + 1), torch.arange(n_codes, device=latents.device))
    return starts


def _kernels() -> Any:
    """The device code; imported on the first launch, because it imports triton."""
    return importlib.import_module(".triton_kernels", __package__)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()
