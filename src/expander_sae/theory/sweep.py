"""One pass over all columns of a dictionary, in blocks, for certificates that ask about every column off a support."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Dictionary
from expander_sae.ops.autograd import own_precision
from expander_sae.ops.in_full import in_full

from .factors import Factors

_WIDTH = 256  # columns in a block
_CACHED = 1 << 16  # float64 numbers in an array [tokens, k, columns]: a few such arrays stay in a core's cache
_SPARSE_WINS = 24  # a sparse product costs this many times more per multiplication than a dense one
SLACK = 1e-9  # what rounding in float64 may hide


class OffSupport(NamedTuple):
    """Extremes over the columns j outside S, one entry per token; a = W^T r, b = W^T h, X = G^-1 W_S^T W."""

    reach: Tensor
    """max |b_j| (of b_j if nonnegative)."""
    low: Tensor
    """Smallest penalty that keeps every column j at zero."""
    outside: Tensor
    """max |a_j|."""
    spread: Tensor
    """max ||X_j||_1; NaN unless asked for."""
    distance: Tensor
    """min distance of w_j from span W_S; NaN unless asked for."""
    gain: Tensor
    """The most by which an exchange of one i in S for one j lowers ||r||^2; NaN unless asked for."""


@own_precision
def sweep_columns(
    factors: Factors, indices: Tensor, active: Tensor, w: Dictionary, *, nonnegative: bool, full: bool
) -> OffSupport:
    """The extremes of `OffSupport` without an array [batch, n_latents] or [k, n_latents] per token.

    O(n_latents degree) per token, or O(n_latents d_in) by dense products where those are faster; with `full` also
    O(k^2 n_latents) for X, read off the Gram matrix of the latents that occur in the batch.

    Args:
        factors: of the supports.
        indices, active: [batch, k].
        w: unit columns in float64, rows int64.
        nonnegative: codes and alternatives are x >= 0.
        full: also what needs X.
    """
    rows, values = w.rows, w.decoder
    assert rows is not None
    tokens, n_latents, d_in = len(indices), w.n_latents, w.d_in
    new = factors.residual.new_full
    best = OffSupport(
        new((tokens,), -torch.inf), new((tokens,), 0.0), new((tokens,), 0.0),
        new((tokens,), 0.0 if full else torch.nan), new((tokens,), torch.inf if full else torch.nan),
        new((tokens,), -torch.inf if full else torch.nan),
    )  # fmt: skip
    used, slots = _used_latents(indices, active)
    # One row more, of zeros, for the slots that are not in use.
    frame = (
        _sparse(torch.cat([rows[used], rows[:1]]), torch.cat([values[used], values[:1] * 0]), d_in) if full else None
    )
    both = torch.cat([factors.residual, factors.dual])
    across = both.mT.contiguous()
    for first in range(0, n_latents, _WIDTH):
        block = slice(first, min(first + _WIDTH, n_latents))
        width = block.stop - first
        dense = in_full(rows[block], values[block], d_in)
        if rows.shape[1] * _SPARSE_WINS < d_in:
            a, b = (_sparse(rows[block], values[block], d_in) @ across).mT.contiguous().chunk(2)
        else:
            a, b = (both @ dense.mT).chunk(2)
        inside = _inside(indices, active, first, width)
        best = best._replace(
            reach=torch.maximum(best.reach, (b if nonnegative else b.abs()).masked_fill(inside, -torch.inf).amax(1)),
            low=torch.maximum(best.low, _penalty(a, b, nonnegative).masked_fill(inside, 0.0).amax(1)),
            outside=torch.maximum(best.outside, a.abs().masked_fill(inside, 0.0).amax(1)),
        )
        if frame is not None:
            spread, distance, gain = _projections(frame @ dense.mT.contiguous(), slots, factors, active, a, inside)
            best = best._replace(
                spread=torch.maximum(best.spread, spread),
                distance=torch.minimum(best.distance, distance),
                gain=torch.maximum(best.gain, gain),
            )
    return best._replace(distance=best.distance.clamp_min(0).sqrt()) if full else best


def _projections(
    gram: Tensor, slots: Tensor, factors: Factors, active: Tensor, a: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest ||X_j||_1, smallest squared distance and best exchange over the columns of one block, [tokens] each."""
    k, width = slots.shape[1], gram.shape[1]
    # V_ij = X_ij / sqrt(Ginv_ii). Without i, ||r||^2 grows by c_i^2, c_i = x_i / sqrt(Ginv_ii); then w_j takes away
    # (a_j + c_i V_ij)^2 / (distance_j^2 + V_ij^2) of what is left.
    root = factors.inverse.diagonal(dim1=1, dim2=2).sqrt()
    scaled = factors.inverse / root[:, :, None]
    c = factors.refit / root
    loss = torch.where(active, c.square(), torch.inf)
    step = max(1, _CACHED // (k * width))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for at in range(0, len(slots), step):
        part = slice(at, at + step)
        inner = gram.index_select(0, slots[part].ravel()).view(-1, k, width)
        v = torch.bmm(scaled[part], inner)
        weight = root[part, None, :]
        squared = 1 - torch.bmm(weight, inner.mul_(v))[:, 0]
        spread = torch.bmm(weight, torch.abs(v, out=inner))[:, 0]
        hidden = inside[part]
        squared = squared.clamp_min_(0).masked_fill_(hidden, torch.inf)
        top = torch.addcmul(a[part, None, :], c[part, :, None], v, out=inner)
        top.square_()
        top /= v.square_().add_(squared[:, None, :]).clamp_min_(1e-12)
        gain = (top.amax(2) - loss[part]).amax(1)
        parts.append((spread.masked_fill_(hidden, 0.0).amax(1), squared.amin(1), gain))
    spreads, distances, gains = zip(*parts, strict=True)
    return torch.cat(spreads), torch.cat(distances), torch.cat(gains)


def _penalty(a: Tensor, b: Tensor, nonnegative: bool) -> Tensor:
    """The least gamma with |a_j + gamma b_j| <= gamma (a_j + gamma b_j <= gamma if nonnegative), for |b_j| < 1."""
    low = a / (1 - b).clamp_min(SLACK)
    return low.clamp_min(0) if nonnegative else torch.maximum(low, -a / (1 + b).clamp_min(SLACK))


def _used_latents(indices: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """The latents that occur, sorted, and where in that list each slot's is; unused slots point behind its end."""
    used = torch.unique(indices[active])
    if len(used) == 0:
        used = indices.new_zeros(1)
    return used, torch.where(active, torch.searchsorted(used, indices), len(used))


def _inside(indices: Tensor, active: Tensor, first: int, width: int) -> Tensor:
    """bool [tokens, width]: which latents of a block are in S. All others write to a column that is cut off."""
    local = indices - first
    local = torch.where(active & (local >= 0) & (local < width), local, width)
    out = torch.zeros(len(indices), width + 1, dtype=torch.bool, device=indices.device)
    return out.scatter_(1, local, True)[:, :width]


def _sparse(rows: Tensor, values: Tensor, d_in: int) -> Tensor:
    offsets = torch.arange(0, rows.numel() + 1, rows.shape[1], device=rows.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            offsets, rows.ravel(), values.ravel(), (len(rows), d_in), device=rows.device, check_invariants=True
        )
