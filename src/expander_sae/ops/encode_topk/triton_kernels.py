"""The device code of the Triton encoder; importing this module imports triton."""

# Kernels are compiled by Triton, whose types pyright does not know; triton itself may be absent.
# pyright: reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
import triton
import triton.language as tl

EMPTY = tl.constexpr(-(1 << 63))  # sorts below every real key


@triton.jit
def _pack(value, latent):
    """One int64 that sorts by value, then by falling latent index."""
    value = tl.where(value == 0.0, 0.0, value)  # -0.0 ties with 0.0
    bits = value.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - latent).to(tl.int64)


@triton.jit
def _unpack_latent(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF)


@triton.jit
def _unpack_value(key):
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _widen(row, NARROW: tl.constexpr):
    """Rows of 16 bits come as int16 with the bits of a uint16."""
    row = row.to(tl.int32)
    if NARROW:
        row = row & 0xFFFF
    return row


@triton.jit
def _keep_largest(best, keys, K_PAD: tl.constexpr):
    """Per row, the K_PAD largest of best (falling) and keys, falling."""
    news = (tl.max(keys, 1) > tl.min(best, 1)).to(tl.int32)
    if tl.max(news, 0) > 0:
        # Of a rising and a falling list of equal length, the larger of each pair are the largest of all.
        best = tl.sort(tl.maximum(tl.sort(best), tl.topk(keys, K_PAD)), descending=True)
    return best


@triton.jit
def group_keys_kernel(
    x_tiles,  # [tiles, d_in, TILE]
    rows_t,  # [degree, n_latents]
    values_t,  # [degree, n_latents]
    bias,  # [n_latents]
    keys,  # [tiles * TILE, n_groups], out
    n_latents,
    d_in,
    n_groups,
    n_spans,
    HAS_BIAS: tl.constexpr,
    SIGNED: tl.constexpr,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    UNROLL: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """The best key of every group of GROUP latents, for one tile of tokens and every num_programs(1)-th span.

    Latent `span * LANES * GROUP + i * LANES + lane` belongs to group `span * LANES + lane`, so a group's best
    is a running maximum in registers: nothing crosses threads.
    """
    tile = tl.program_id(0).to(tl.int64)
    token = tl.arange(0, TILE)
    lane = tl.arange(0, LANES)
    x_tile = x_tiles + tile * d_in * TILE
    for span in range(tl.program_id(1), n_spans, tl.num_programs(1)):
        best = tl.full([LANES, TILE], float("-inf"), tl.float32)
        winner = tl.full([LANES, TILE], -1, tl.int32)
        for i in range(GROUP):
            latent = (span * GROUP + i) * LANES + lane
            inside = latent < n_latents
            pre = tl.zeros([LANES, TILE], tl.float32)
            for e in tl.range(0, DEGREE, loop_unroll_factor=UNROLL):
                # Read once per tile: first to go, so that the cache keeps the tile of x.
                at = e * n_latents + latent
                row = tl.load(rows_t + at, mask=inside, other=0, eviction_policy="evict_first")
                value = tl.load(values_t + at, mask=inside, other=0.0, eviction_policy="evict_first")
                x = tl.load(x_tile + _widen(row, NARROW)[:, None] * TILE + token[None, :])
                pre += value[:, None] * x.to(tl.float32)
            if HAS_BIAS:
                pre += tl.load(bias + latent, mask=inside, other=0.0)[:, None]
            if not SIGNED:
                pre = tl.maximum(pre, 0.0)
            better = (pre > best) & inside[:, None]
            best = tl.where(better, pre, best)
            winner = tl.where(better, latent[:, None], winner)
        key = tl.where(winner >= 0, _pack(best, winner), EMPTY)
        group = span * LANES + lane
        where = (tile * TILE + token)[None, :] * n_groups + group[:, None]
        tl.store(keys + where, key, mask=(group < n_groups)[:, None])


@triton.jit
def _group_keys(keys, token, live, first, n_groups, CHUNK: tl.constexpr):
    group = first + tl.arange(0, CHUNK)
    mask = live[:, None] & (group < n_groups)[None, :]
    return tl.load(keys + token[:, None] * n_groups + group[None, :], mask=mask, other=EMPTY)


@triton.jit
def top_groups_kernel(
    keys,  # [padded batch, n_groups]
    winners,  # [batch, K_PAD], out
    batch,
    n_groups,
    K_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The winning latents of every token's K_PAD best groups, by falling key; -1 where there is none."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    live = token < batch
    best = tl.topk(_group_keys(keys, token, live, 0, n_groups, CHUNK), K_PAD)
    for first in range(CHUNK, n_groups, CHUNK):
        best = _keep_largest(best, _group_keys(keys, token, live, first, n_groups, CHUNK), K_PAD)
    latent = tl.where(best == EMPTY, -1, _unpack_latent(best)).to(tl.int32)
    slot = tl.arange(0, K_PAD)
    tl.store(winners + token[:, None] * K_PAD + slot[None, :], latent, mask=live[:, None])


@triton.jit
def _candidate_keys(
    x,
    rows,
    values,
    bias,
    winners,
    token,
    live,
    first,
    n_latents,
    d_in,
    n_candidates,
    HAS_BIAS: tl.constexpr,
    SIGNED: tl.constexpr,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    K_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """The keys [tokens, CHUNK] of the group members first, first + 1, ... of every token."""
    candidate = first + tl.arange(0, CHUNK)
    mask = live[:, None] & (candidate < n_candidates)[None, :]
    winner = tl.load(winners + token[:, None] * K_PAD + (candidate // GROUP)[None, :], mask=mask, other=-1)
    found = winner >= 0
    winner = tl.where(found, winner, 0)
    span = winner // (LANES * GROUP)
    latent = (span * GROUP + (candidate % GROUP)[None, :]) * LANES + winner % LANES
    found = found & (latent < n_latents)
    # The same sum in the same order as in group_keys_kernel, so that both see the same numbers.
    pre = tl.zeros(latent.shape, tl.float32)
    for e in range(DEGREE):
        at = latent * DEGREE + e
        row = _widen(tl.load(rows + at, mask=found, other=0), NARROW)
        value = tl.load(values + at, mask=found, other=0.0)
        pre += value * tl.load(x + token[:, None] * d_in + row, mask=found, other=0.0).to(tl.float32)
    if HAS_BIAS:
        pre += tl.load(bias + latent, mask=found, other=0.0)
    if not SIGNED:
        pre = tl.maximum(pre, 0.0)
    return tl.where(found, _pack(pre, latent), EMPTY)


@triton.jit
def refine_kernel(
    x,  # [batch, d_in]
    rows,  # [n_latents, degree]
    values,  # [n_latents, degree]
    bias,  # [n_latents]
    winners,  # [batch, K_PAD]
    indices,  # [batch, k], out
    codes,  # [batch, k], out
    batch,
    n_latents,
    d_in,
    k,
    n_candidates,
    HAS_BIAS: tl.constexpr,
    SIGNED: tl.constexpr,
    NARROW: tl.constexpr,
    DEGREE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    K_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The k largest pre-activations among all members of every token's best groups."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    live = token < batch
    # fmt: off
    keys = _candidate_keys(
        x, rows, values, bias, winners, token, live, 0, n_latents, d_in, n_candidates,
        HAS_BIAS, SIGNED, NARROW, DEGREE, GROUP, LANES, K_PAD, CHUNK,
    )
    best = tl.topk(keys, K_PAD)
    for first in range(CHUNK, n_candidates, CHUNK):
        keys = _candidate_keys(
            x, rows, values, bias, winners, token, live, first, n_latents, d_in, n_candidates,
            HAS_BIAS, SIGNED, NARROW, DEGREE, GROUP, LANES, K_PAD, CHUNK,
        )
        best = _keep_largest(best, keys, K_PAD)
    # fmt: on
    slot = tl.arange(0, K_PAD)
    at = token[:, None] * k + slot[None, :]
    mask = live[:, None] & (slot < k)[None, :]
    tl.store(indices + at, _unpack_latent(best), mask=mask)
    tl.store(codes + at, _unpack_value(best), mask=mask)
