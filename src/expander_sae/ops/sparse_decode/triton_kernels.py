"""The device code of the Triton decoder and of both backward passes; importing this module imports triton."""

# Kernels are compiled by Triton, whose types pyright does not know; triton itself may be absent.
# pyright: reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
import triton
import triton.language as tl


@triton.jit
def _widen(row, NARROW: tl.constexpr):
    """Rows of 16 bits come as int16 with the bits of a uint16."""
    row = row.to(tl.int32)
    if NARROW:
        row = row & 0xFFFF
    return row


@triton.jit
def decode_kernel(
    indices,  # [batch, k]
    codes,  # [batch, k]
    rows,  # [n_latents, degree]
    values,  # [n_latents, degree]
    out,  # [batch, d_in], zeros
    batch,
    d_in,
    k,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    LANES: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Add the columns of TOKENS tokens, one slot after the other.

    The rows of one column are distinct, so within a slot no two lanes touch the same place, and a barrier keeps
    the slots apart: plain loads and stores in a fixed order where atomics would add in any order.
    """
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    live = token < batch
    lane = tl.arange(0, LANES)
    mask = live[:, None] & (lane < DEGREE)[None, :]
    for slot in range(k):
        latent = tl.load(indices + token * k + slot, mask=live, other=0)
        code = tl.load(codes + token * k + slot, mask=live, other=0.0)
        at = latent[:, None] * DEGREE + lane[None, :]
        row = _widen(tl.load(rows + at, mask=mask, other=0), NARROW)
        value = tl.load(values + at, mask=mask, other=0.0)
        target = out + token[:, None] * d_in + row
        tl.store(target, tl.load(target, mask=mask, other=0.0) + code[:, None] * value, mask=mask)
        tl.debug_barrier()


@triton.jit
def code_gradient_kernel(
    grad_out,  # [batch, d_in]
    indices,  # [batch * k]
    rows,  # [n_latents, degree]
    values,  # [n_latents, degree]
    grad_codes,  # [batch * k], out
    n_codes,
    d_in,
    k,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    LANES: tl.constexpr,
    CODES: tl.constexpr,
):
    """The inner product of each code's column with its token's output gradient."""
    code = tl.program_id(0).to(tl.int64) * CODES + tl.arange(0, CODES)
    live = code < n_codes
    lane = tl.arange(0, LANES)
    mask = live[:, None] & (lane < DEGREE)[None, :]
    latent = tl.load(indices + code, mask=live, other=0)
    at = latent[:, None] * DEGREE + lane[None, :]
    row = _widen(tl.load(rows + at, mask=mask, other=0), NARROW)
    value = tl.load(values + at, mask=mask, other=0.0)
    grad = tl.load(grad_out + (code // k)[:, None] * d_in + row, mask=mask, other=0.0)
    tl.store(grad_codes + code, tl.sum(value * grad.to(tl.float32), 1), mask=live)


@triton.jit
def sum_per_latent_kernel(
    latents,  # [n_codes], sorted
    order,  # [n_codes]: the code that stands at each sorted place
    starts,  # first sorted place of every latent in use, then n_codes
    weights,  # [n_codes], in code order
    x,  # [batch, d_in]
    center,  # [d_in]
    rows,  # [n_latents, degree]
    grad_values,  # [n_latents, degree], zeros
    grad_bias,  # [n_latents], zeros
    n_codes,
    d_in,
    k,
    HAS_CENTER: tl.constexpr,
    NEEDS_VALUES: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    LANES: tl.constexpr,
    CODES: tl.constexpr,
):
    """One latent's weighted sum of its tokens, at its own rows, in sorted order."""
    segment = tl.program_id(0)
    start = tl.load(starts + segment)
    if start < n_codes:
        end = tl.load(starts + segment + 1)
        latent = tl.load(latents + start)
        lane = tl.arange(0, LANES)
        inside = lane < DEGREE
        row = _widen(tl.load(rows + latent * DEGREE + lane, mask=inside, other=0), NARROW)
        total = tl.zeros([LANES], tl.float32)
        weight_total = tl.zeros([CODES], tl.float32)
        for first in range(start, end, CODES):
            place = first + tl.arange(0, CODES)
            live = place < end
            code = tl.load(order + place, mask=live, other=0)
            weight = tl.load(weights + code, mask=live, other=0.0)
            weight_total += weight
            if NEEDS_VALUES:
                mask = live[:, None] & inside[None, :]
                entry = tl.load(x + (code // k)[:, None] * d_in + row[None, :], mask=mask, other=0.0).to(tl.float32)
                if HAS_CENTER:
                    entry -= tl.load(center + row, mask=inside, other=0.0)[None, :]
                total += tl.sum(weight[:, None] * entry, 0)
        if NEEDS_VALUES:
            tl.store(grad_values + latent * DEGREE + lane, total, mask=inside)
        if NEEDS_BIAS:
            tl.store(grad_bias + latent, tl.sum(weight_total, 0))
