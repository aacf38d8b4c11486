"""Block OMP over a dense dictionary with matrix products, for the dense control."""

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

MAX_PIECE = 1 << 25
"""Scores or gathered column entries held at once."""
SMALLEST_SCORE = 1e-5
RIDGE = 1e-6
"""Added to the diagonal of every Gram matrix of unit columns, so that a dependent support has a solution too."""


def forward(x: Tensor, values: Tensor, k: int, block: int, signed: bool, tolerance: float) -> tuple[Tensor, Tensor]:
    """Indices and values of the codes of x [batch, d_in] (already centered), by falling size.

    Unlike the sparse kernel it does not skip dependent columns; a ridge of 1e-6 keeps the refit defined.
    """
    n_latents, d_in = values.shape
    pieces = [
        _piece(part, values, k, block, signed, tolerance)
        for part in x.split(max(1, MAX_PIECE // max(n_latents, k * d_in)))
    ]
    if not pieces:
        return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k, dtype=values.dtype)
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])


def _piece(x: Tensor, values: Tensor, k: int, block: int, signed: bool, tolerance: float) -> tuple[Tensor, Tensor]:
    batch, width = x.shape[0], values.shape[1]
    chosen = torch.empty(batch, 0, dtype=torch.int64)
    used = torch.empty(batch, 0, dtype=torch.bool)
    codes, residual, norm = x.new_zeros(batch, 0), x, x.norm(dim=1, keepdim=True)
    live = norm > 0
    while chosen.shape[1] < k:
        score = residual @ values.T
        if not bool(torch.isfinite(score).all()):
            raise ExpanderSaeError("x or values hold NaN or infinity. Check the activations and the dictionary.")
        score = score.abs() if signed else score
        score.scatter_(1, chosen, -1.0)
        top = score.topk(min(block, k - chosen.shape[1]), dim=1)
        chosen = torch.cat([chosen, top.indices], dim=1)
        used = torch.cat([used, (top.values > SMALLEST_SCORE * norm) & live], dim=1)
        # Unused slots get a zero column, so that one batched solve serves all tokens.
        columns = values[chosen] * used[:, :, None]
        gram = torch.baddbmm(RIDGE * torch.eye(chosen.shape[1]), columns, columns.transpose(1, 2))
        gram.diagonal(dim1=1, dim2=2).add_((~used).to(gram.dtype))
        target = torch.bmm(columns, x[:, :, None])
        codes = torch.cholesky_solve(target, torch.linalg.cholesky(gram))[:, :, 0]
        residual = x - torch.bmm(codes[:, None, :], columns).view(batch, width)
        if tolerance > 0:
            live = live & (residual.norm(dim=1, keepdim=True) > tolerance * norm)
    order = (codes.abs() if signed else codes).sort(dim=1, descending=True, stable=True).indices
    return chosen.gather(1, order), codes.gather(1, order)
