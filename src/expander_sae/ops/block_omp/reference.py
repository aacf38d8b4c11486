"""The definition of block_omp, over a dictionary written out in full, with matrix products and batched solves.

In float64 it is the ground truth; in their own type dense dictionaries are pursued by it, and any dictionary on a
device without a kernel.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from expander_sae.ops.codes import pack
from expander_sae.ops.ties import EqualColumns, equal_columns, fingerprints, largest
from expander_sae.records import ExpanderSaeError

MAX_PIECE = 1 << 25
"""Scores or gathered column entries held at once."""
MAX_GRAM = 1 << 25
"""Entries of the dictionary's Gram matrix, if it is made: then no column is gathered (Rubinstein et al. 2008)."""
GATHERED = 2
"""Entry for entry, Gram matrices of gathered columns cost so many times what the dictionary's own costs. Measured on
one core with 512 tokens of d_in 576: at 1600 latents making it wins, at 4608 gathering does."""
SMALLEST_SCORE = 1e-5
SMALLEST_PIVOT = 1e-5
SUSPECT_PIVOT = 1e-2
"""Below it a pivot in float32 may be rounding, and is found again in float64."""


def forward(
    x: Tensor, values: Tensor, k: int, block: int, spare: int, signed: bool, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """Indices and values of the codes of x [batch, d_in] (already centered), by falling size; how many picked columns
    were dependent on the support and skipped."""
    n_latents, d_in = values.shape
    same = equal_columns(fingerprints(None, values, d_in, signed=signed))
    gram = values @ values.T if _gram_pays(len(x), n_latents, k, block, spare) else None
    per_token = max(n_latents, (k + spare) * (d_in if gram is None else k + spare))
    pieces = [
        _piece(part, values, gram, same, k, block, spare, signed, tolerance)
        for part in x.split(max(1, MAX_PIECE // per_token))
    ]
    indices, codes, skipped = zip(*pieces, strict=True)
    return torch.cat(indices), torch.cat(codes), sum(skipped)


def _gram_pays(batch: int, n_latents: int, k: int, block: int, spare: int) -> bool:
    """Whether the dictionary's Gram matrix is small enough, and cheaper than those of every token's columns."""
    columns = (min(k, held + block) + spare for held in range(0, k, block))
    return n_latents**2 <= min(MAX_GRAM, GATHERED * batch * sum(count**2 for count in columns))


def _piece(
    x: Tensor,
    values: Tensor,
    known: Tensor | None,
    same: EqualColumns,
    k: int,
    block: int,
    spare: int,
    signed: bool,
    tolerance: float,
) -> tuple[Tensor, Tensor, int]:
    batch, skipped = x.shape[0], 0
    # The support's slots [batch, t]; tokens that hold fewer columns than others have slots that are not used.
    chosen = x.new_empty((batch, 0), dtype=torch.int64)
    used = x.new_empty((batch, 0), dtype=torch.bool)
    codes, residual, norm = x.new_zeros(batch, 0), x, x.norm(dim=1)
    first = x @ values.T
    held = used.sum(1)
    live = norm > 0
    while bool(live.any()):
        score = residual @ values.T if chosen.shape[1] else first.clone()
        # The first scores are finite if x and the dictionary are; then those of a finite residual are too, and it has
        # d_in numbers for each token, not n_latents.
        if not bool(torch.isfinite(residual if chosen.shape[1] else score).all()):
            raise ExpanderSaeError("x or values hold NaN or infinity. Check the activations and the dictionary.")
        score = same.level(score.abs() if signed else score)
        tokens, slots = used.nonzero(as_tuple=True)
        score[tokens, chosen[tokens, slots]] = -1.0
        wanted = (k - held).clamp(max=block) + spare
        found, picked = largest(score, int(wanted[live].max()))
        fresh = torch.arange(picked.shape[1], device=x.device) < wanted[:, None]
        fresh &= (found > SMALLEST_SCORE * norm[:, None]) & live[:, None]
        chosen, used = torch.cat([chosen, picked], dim=1), torch.cat([used, fresh], dim=1)
        factor, independent = _factor(values, known, chosen, used)
        skipped += int((used & ~independent).sum())
        used = independent
        added = used[:, -picked.shape[1] :].any(1)
        target = (first.gather(1, chosen) * used)[:, :, None]
        codes = torch.cholesky_solve(target, factor)[:, :, 0]
        surplus = (used.sum(1) - (held + block).clamp(max=k)).clamp(min=0)
        if bool(surplus.any()):
            used, codes = _drop_weakest(torch.cholesky_inverse(factor), codes, used, surplus)
        held = used.sum(1)
        kept = used.int().sort(dim=1, descending=True, stable=True).indices[:, : max(1, int(held.max()))]
        chosen, used, codes = chosen.gather(1, kept), used.gather(1, kept), codes.gather(1, kept)
        residual = x - F.embedding_bag(chosen, values, per_sample_weights=codes * used, mode="sum")
        live &= added & (held < k)
        if tolerance > 0:
            live &= residual.norm(dim=1) > tolerance * norm
    indices, codes = pack(chosen, codes * used, k, len(values), signed=signed)
    return indices, codes, skipped


def _factor(values: Tensor, known: Tensor | None, chosen: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors [batch, t, t] of the chosen columns' Gram matrices, and the used slots [batch, t] less those
    whose column depends on earlier ones; unused slots are rows of the identity, so that one solve serves all tokens."""

    def without(gram: Tensor, used: Tensor) -> Tensor:
        return gram * (used[:, :, None] & used[:, None, :]) + torch.diag_embed((~used).to(gram.dtype))

    factor, failed = torch.linalg.cholesky_ex(without(_gram(values, known, chosen), used))
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    suspect = ((failed > 0) | (used & ~(pivots > SUSPECT_PIVOT)).any(1)).nonzero()[:, 0]
    if not len(suspect):
        return factor, used
    gram, left = _gram(values.double(), None, chosen[suspect]), used[suspect]
    left = _independent(without(gram, left), left)
    factor[suspect] = torch.linalg.cholesky(without(gram, left)).to(factor.dtype)
    used = used.clone()
    used[suspect] = left
    return factor, used


def _independent(gram: Tensor, used: Tensor) -> Tensor:
    """The used slots [batch, t] less those whose column depends on earlier ones, by elimination in float64: a dependent
    column is passed over, so that nothing is divided by a pivot that is rounding."""
    left, used = gram.clone(), used.clone()
    smallest = SMALLEST_PIVOT * gram.diagonal(dim1=1, dim2=2)
    for slot in range(gram.shape[1]):
        pivot = left[:, slot, slot]
        used[:, slot] &= pivot > smallest[:, slot]
        scale = torch.where(used[:, slot], 1 / pivot, 0.0)
        left -= (left[:, :, slot] * scale[:, None])[:, :, None] * left[:, slot, None, :]
    return used


def _gram(values: Tensor, known: Tensor | None, chosen: Tensor) -> Tensor:
    """Gram matrices [batch, t, t] of the chosen columns, out of the dictionary's own where it is known."""
    if known is not None:
        return known[chosen[:, :, None], chosen[:, None, :]]
    columns = values[chosen]
    return columns @ columns.transpose(1, 2)


def _drop_weakest(inverse: Tensor, codes: Tensor, used: Tensor, surplus: Tensor) -> tuple[Tensor, Tensor]:
    """The slots [batch, t] in use, and their least-squares codes, after dropping argmin z_j^2 / (G^-1)_jj one at a
    time, `surplus` [batch] of each token."""
    tokens = torch.arange(codes.shape[0], device=codes.device)
    used = used.clone()
    for dropped in range(int(surplus.max())):
        now = dropped < surplus
        cost = codes.square() / inverse.diagonal(dim1=1, dim2=2)
        weakest = cost.masked_fill(~used, torch.inf).argmin(dim=1)
        used[tokens[now], weakest[now]] = False
        gone = inverse[tokens, weakest]
        scaled = torch.where(now[:, None], gone / gone.gather(1, weakest[:, None]), 0.0)
        codes = codes - codes.gather(1, weakest[:, None]) * scaled
        inverse.baddbmm_(scaled[:, :, None], gone[:, None, :], alpha=-1)
        # What is left of the dropped slot is rounding; as one it stays finite.
        inverse[tokens[now], weakest[now], weakest[now]] = 1.0
    return used, codes
