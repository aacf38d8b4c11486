"""encode_topk on an NVIDIA GPU, in Triton. Tested in the interpreter only: no GPU was to be had.

The kernels also compile for compute capability 9.0; they have never run on a device, so nothing here is measured.

How it avoids [batch, n_latents]
    The latents are dealt into groups of `group` (8 to 128). A first kernel computes every pre-activation once
    and keeps, per token and group, the largest as one 64-bit key that sorts by value and then by falling latent.
    Every one of the k largest keys lies in one of the k groups with the largest maxima: a group outside them has
    k keys above all of its own. So a second kernel picks those k groups and a third one recomputes their
    k * group members and keeps the k largest. This is exact, ties included, for any input; there is no candidate
    buffer to overflow, no atomic, no second try, and the answer is the same every time.

    The k-th largest group maximum is the same kind of object as a threshold from a sampled subset (the k-th value
    of a subset bounds the k-th value of all from below), but it is drawn from all latents, so it is tight: only
    k * group instead of k * n / sample latents have to be looked at again.

What it costs, per token, at d_in 2048, n 32768, degree 7, k 32 (group 16)
    pass 1: n * degree = 229k multiply-adds; 918 kB of x gathered (float32; half for 16-bit x), from L1: tokens are
        transposed into tiles [d_in, tile] of 64 bytes a row, so a non-zero is one contiguous 64-byte read and the
        whole tile (128 KiB) stays in one SM's L1. An H100 moves about 14 TB/s in such half lines: 65 ns (32 ns for
        16-bit x). Rows and values (6 bytes a non-zero) are read once a tile, 86 kB per token for a tile of 16,
        from L2: 16 ns. The multiply-adds themselves take 8 ns.
    keys: n / group * 8 = 16 kB written and read; 2 to 10 ns.
    pass 2 and 3: bitonic selection over 2048 keys, then k * group = 512 candidates of 7 scattered reads; about 15 ns.
    Dense bf16 GEMM alone is 134 MFLOP, 220 ns at 600 TFLOP/s, and writes 64 kB that torch.topk reads again. These
    are estimates from data-sheet rates; `benchmarks/gpu.py` measures.

Memory: [tokens, n / group] keys for as many tokens at a time as fit into 256 MiB.

The backward pass keeps to sums in a fixed order instead of float atomics: grad_x is `sparse_decode` of the gradient
codes (slots added one after the other), grad_values and grad_bias are segment sums over the codes sorted by
latent. Both live in `sparse_decode`, which needs them too.
"""

import importlib
import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.ops.sparse_decode import triton as sparse_decode

MAX_K = 1024
_SCRATCH_BYTES = 1 << 28
_CHUNK = 1024
_X_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Tuning(NamedTuple):
    """Launch parameters; they change the speed and never the result."""

    tile: int
    """Tokens per tile; a power of two."""
    lanes: int
    """Latents per step of pass 1; a power of two."""
    group: int
    """Latents per group; a power of two."""
    programs: int
    """Programs that share the latents of one tile."""
    warps: int
    """Warps per program of pass 1."""


def supports(x: Tensor, rows: Tensor | None, values: Tensor, k: int | None = None) -> str | None:
    """Why Triton cannot take this call, or None if it can."""
    if rows is None:
        return "a dense dictionary is encoded with a matrix product, not by the Triton kernels"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install 'expander-sae[triton]'"
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the Triton kernels run on CUDA tensors, these are on {x.device}"
    if x.dtype not in _X_DTYPES or values.dtype != torch.float32:
        return f"the Triton kernels sum in float32; x is {x.dtype} and values are {values.dtype}"
    if k is not None and k > MAX_K:
        return f"the Triton kernels select in registers, so k may be at most {MAX_K}, not {k}"
    return None


def default_tuning(x: Tensor, n_latents: int, k: int) -> Tuning:
    """Tiles of 64-byte rows, groups that balance keys against candidates, programs enough to fill the device."""
    tile = 64 // x.element_size()
    # A key costs 16 bytes of traffic, a candidate about 6 times that: the sum of both is smallest near
    # sqrt(n / (6 k)). At least 8, so that the keys always stay well below [batch, n_latents].
    group = 8
    while group < 128 and 4 * group * group * 4 * k <= n_latents:
        group *= 2
    # Fewer lanes than threads: the compiler then loads rows and values where they are needed, instead of passing
    # them through shared memory with a barrier for every entry.
    lanes = min(128, sparse_decode.power_of_two(-(-n_latents // group)))
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    tiles = -(-x.shape[0] // tile)
    spans = -(-n_latents // (lanes * group))
    return Tuning(tile, lanes, group, programs=max(1, min(spans, -(-2 * processors // tiles))), warps=8)


def forward(
    x: Tensor,
    rows: Tensor,
    values: Tensor,
    k: int,
    bias: Tensor | None,
    center: Tensor | None,
    signed: bool,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices int64 [batch, k] and values float32 [batch, k] of the k largest pre-activations.

    `pre[b, j] = sum_e values[j, e] * (x - center)[b, rows[j, e]] + bias[j]`, a ReLU unless `signed`.

    Args:
        x: [batch, d_in], float32, bfloat16 or float16, finite.
        rows: [n_latents, degree], any integer type, below d_in.
        values: float32 [n_latents, degree].
        k: 1..min(n_latents, 1024).
        bias: float32 [n_latents] or None.
        center: float32 [d_in] or None; subtracted in float32.
        signed: leave out the ReLU.
        tuning: launch parameters, for benchmarks.
    """
    batch = x.shape[0]
    indices = torch.empty((batch, k), dtype=torch.int64, device=x.device)
    codes = torch.empty((batch, k), dtype=torch.float32, device=x.device)
    if batch == 0:
        return indices, codes
    x = (x if center is None else x.float() - center).contiguous()
    rows, narrow = sparse_decode.kernel_rows(rows)
    values = values.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    tuning = default_tuning(x, values.shape[0], k) if tuning is None else tuning
    n_groups = -(-values.shape[0] // (tuning.lanes * tuning.group)) * tuning.lanes
    step = max(1, _SCRATCH_BYTES // (8 * n_groups * tuning.tile)) * tuning.tile
    rows_t, values_t = rows.t().contiguous(), values.t().contiguous()
    for first in range(0, batch, step):
        part = slice(first, first + step)
        keys = _group_keys(x[part], rows_t, values_t, bias, signed, narrow, tuning, n_groups)
        _select(x[part], rows, values, bias, signed, narrow, tuning, keys, indices[part], codes[part])
    return indices, codes


def _group_keys(
    x: Tensor,
    rows_t: Tensor,
    values_t: Tensor,
    bias: Tensor | None,
    signed: bool,
    narrow: bool,
    tuning: Tuning,
    n_groups: int,
) -> Tensor:
    """Pass 1: the best key of every group, int64 [padded batch, n_groups]."""
    batch, d_in = x.shape
    degree, n_latents = values_t.shape
    tiles = -(-batch // tuning.tile)
    padded = torch.nn.functional.pad(x, (0, 0, 0, tiles * tuning.tile - batch))
    x_tiles = padded.view(tiles, tuning.tile, d_in).transpose(1, 2).contiguous()
    keys = torch.empty((tiles * tuning.tile, n_groups), dtype=torch.int64, device=x.device)
    _kernels().group_keys_kernel[(tiles, tuning.programs)](
        x_tiles,
        rows_t,
        values_t,
        values_t if bias is None else bias,
        keys,
        n_latents,
        d_in,
        n_groups,
        n_groups // tuning.lanes,
        HAS_BIAS=bias is not None,
        SIGNED=signed,
        NARROW=narrow,
        DEGREE=degree,
        UNROLL=_unroll(degree),
        GROUP=tuning.group,
        LANES=tuning.lanes,
        TILE=tuning.tile,
        num_warps=tuning.warps,
    )
    return keys


def _select(
    x: Tensor,
    rows: Tensor,
    values: Tensor,
    bias: Tensor | None,
    signed: bool,
    narrow: bool,
    tuning: Tuning,
    keys: Tensor,
    indices: Tensor,
    codes: Tensor,
) -> None:
    """Pass 2 and 3: the k best groups of every token, then the k best of their members, into indices and codes."""
    batch, d_in = x.shape
    k, n_groups = indices.shape[1], keys.shape[1]
    k_pad = max(2, sparse_decode.power_of_two(k))
    winners = torch.empty((batch, k_pad), dtype=torch.int32, device=x.device)
    chunk, tokens = _selection_block(k_pad, n_groups, batch)
    _kernels().top_groups_kernel[(-(-batch // tokens),)](
        keys, winners, batch, n_groups, K_PAD=k_pad, CHUNK=chunk, TOKENS=tokens, num_warps=4
    )
    candidates = min(k, n_groups) * tuning.group
    chunk, tokens = _selection_block(k_pad, candidates, batch)
    _kernels().refine_kernel[(-(-batch // tokens),)](
        x,
        rows,
        values,
        values if bias is None else bias,
        winners,
        indices,
        codes,
        batch,
        values.shape[0],
        d_in,
        k,
        candidates,
        HAS_BIAS=bias is not None,
        SIGNED=signed,
        NARROW=narrow,
        DEGREE=values.shape[1],
        GROUP=tuning.group,
        LANES=tuning.lanes,
        K_PAD=k_pad,
        CHUNK=chunk,
        TOKENS=tokens,
        num_warps=4,
    )


def _selection_block(k_pad: int, keys: int, batch: int) -> tuple[int, int]:
    """Keys a selection kernel sorts at once per token, and tokens per program.

    1024 keys of 64 bits over 128 threads are 16 registers each.
    """
    chunk = max(k_pad, min(_CHUNK, sparse_decode.power_of_two(keys)))
    return chunk, max(1, min(_CHUNK // chunk, sparse_decode.power_of_two(batch)))


def backward(
    grad_codes: Tensor,
    indices: Tensor,
    x: Tensor,
    rows: Tensor,
    values: Tensor,
    center: Tensor | None,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients in x [batch, d_in], values [n_latents, degree] and bias [n_latents], float32; None if not needed.

    A code without gradient (a zero code after a ReLU) has a zero in `grad_codes` [batch, k].
    """
    grad_x = sparse_decode.forward(indices, grad_codes, rows, values, x.shape[1]) if needs_x else None
    grad_values, grad_bias = sparse_decode.sum_per_latent(
        indices, grad_codes, x, rows, values.shape[0], center, needs_values, needs_bias
    )
    return grad_x, grad_values, grad_bias


def _unroll(degree: int) -> int:
    """Entries of a column in flight together: all of a short one; more would cost registers."""
    return degree if degree <= 16 else 8


def _kernels() -> Any:
    """The device code; imported on the first launch, because it imports triton."""
    return importlib.import_module(".triton_kernels", __package__)
