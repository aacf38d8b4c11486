"""Block OMP over a dictionary written out in full, with matrix products and batched solves.

For dense dictionaries, and for devices without a kernel. Unlike the definition it counts a column that it skips, since
it depends on others, as one of its stage.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

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
    if not pieces:
        return x.new_empty((0, k), dtype=torch.int64), values.new_empty(0, k), 0
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
    chosen = x.new_empty((batch, 0), dtype=torch.int64)
    used = x.new_empty((batch, 0), dtype=torch.bool)
    codes, residual, norm = x.new_zeros(batch, 0), x, x.norm(dim=1, keepdim=True)
    first = x @ values.T
    live = norm > 0
    while chosen.shape[1] < k:
        keep = min(k, chosen.shape[1] + block)
        score = residual @ values.T if chosen.shape[1] else first.clone()
        # The first scores are finite if x and the dictionary are; then those of a finite residual are too, and it has
        # d_in numbers for each token, not n_latents.
        if not bool(torch.isfinite(residual if chosen.shape[1] else score).all()):
            raise ExpanderSaeError("x or values hold NaN or infinity. Check the activations and the dictionary.")
        score = same.level(score.abs() if signed else score)
        score.scatter_(1, chosen, -1.0)
        found, picked = largest(score, min(block, k - chosen.shape[1]) + spare)
        chosen = torch.cat([chosen, picked], dim=1)
        used = torch.cat([used, (found > SMALLEST_SCORE * norm) & live], dim=1)
        factor, independent = _factor(values, known, chosen, used)
        skipped += int((used & ~independent).sum())
        used = independent
        target = (first.gather(1, chosen) * used)[:, :, None]
        codes = torch.cholesky_solve(target, factor)[:, :, 0]
        if chosen.shape[1] > keep:
            kept, codes = _drop_weakest(torch.cholesky_inverse(factor), codes, keep)
            chosen, used = chosen.gather(1, kept), used.gather(1, kept)
        residual = x - F.embedding_bag(chosen, values, per_sample_weights=codes * used, mode="sum")
        if tolerance > 0:
            live = live & (residual.norm(dim=1, keepdim=True) > tolerance * norm)
    order = (codes.abs() if signed else codes).sort(dim=1, descending=True, stable=True).indices
    return chosen.gather(1, order), codes.gather(1, order), skipped


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
    for slot in range(gram.shape[1]):
        pivot = left[:, slot, slot]
        used[:, slot] &= pivot > SMALLEST_PIVOT
        scale = torch.where(used[:, slot], 1 / pivot, 0.0)
        left -= (left[:, :, slot] * scale[:, None])[:, :, None] * left[:, slot, None, :]
    return used


def _gram(values: Tensor, known: Tensor | None, chosen: Tensor) -> Tensor:
    """Gram matrices [batch, t, t] of the chosen columns, out of the dictionary's own where it is known."""
    if known is not None:
        return known[chosen[:, :, None], chosen[:, None, :]]
    columns = values[chosen]
    return columns @ columns.transpose(1, 2)


def _drop_weakest(inverse: Tensor, codes: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The slots [batch, keep] that are left, and their least-squares codes, after dropping argmin z_j^2 / (G^-1)_jj one
    at a time; unused slots (code zero) go first."""
    tokens = torch.arange(codes.shape[0], device=codes.device)
    slots = torch.ones_like(codes, dtype=torch.bool)
    for _ in range(codes.shape[1] - keep):
        cost = codes.square() / inverse.diagonal(dim1=1, dim2=2)
        weakest = cost.masked_fill(~slots, torch.inf).argmin(dim=1)
        slots[tokens, weakest] = False
        gone = inverse[tokens, weakest]
        scaled = gone / gone.gather(1, weakest[:, None])
        codes = codes - codes.gather(1, weakest[:, None]) * scaled
        inverse.baddbmm_(scaled[:, :, None], gone[:, None, :], alpha=-1)
        # What is left of the dropped slot is rounding; as one it stays finite.
        inverse[tokens, weakest, weakest] = 1.0
    kept = slots.nonzero()[:, 1].view(-1, keep)
    return kept, codes.gather(1, kept)
