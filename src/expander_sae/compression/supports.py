"""Which `degree` rows of each dense column an Expander SAE keeps, and with which values."""

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes, sparse_decode
from expander_sae.records import ExpanderSaeError
from expander_sae.saes.rows import rank_within

RULES = {
    "magnitude": "the largest entries of each column",
    "balanced": "the largest entries under a bound on how many columns share a row, no row left without one",
    "error": "the entries that reconstruct activations best while the dense SAE's codes are held fixed",
}
"""Every way to choose, in words."""

ROUNDS = 30
"""Gradient steps of the "error" rule; its error falls by less than one percent in the last ten."""


class Support(NamedTuple):
    """Sorted rows and the values on them, both [n_latents, degree]."""

    rows: Tensor
    values: Tensor


@torch.no_grad()
def choose_support(
    columns: Tensor,
    degree: int,
    rule: str,
    *,
    x: Tensor | None = None,
    codes: Codes | None = None,
    row_cap: float = 4.0,
) -> Support:
    """Choose `degree` rows for every column of a dense dictionary.

    Args:
        columns: [n_latents, d_in], unit length.
        degree: rows kept per column.
        rule: one of `RULES`.
        x: centered activations [tokens, d_in], for "error".
        codes: the dense SAE's codes of x, for "error".
        row_cap: for "balanced", no row gets more columns than this many times the mean.

    Raises:
        ExpanderSaeError: no such rule or degree, a bound that cannot be kept, or "error" without activations.
    """
    if rule not in RULES:
        raise ExpanderSaeError(f"expected a support rule out of {', '.join(RULES)}; got {rule!r}")
    if not 1 <= degree <= columns.shape[1]:
        raise ExpanderSaeError(f"expected a degree in 1..d_in = {columns.shape[1]}; got {degree}")
    if rule == "magnitude":
        return _largest(columns, degree)
    if rule == "balanced":
        return balanced_support(columns, degree, row_cap)
    if x is None or codes is None:
        raise ExpanderSaeError("expected activations and the dense SAE's codes for the support rule 'error'; got none")
    return support_by_error(columns, degree, x, codes)


def _largest(columns: Tensor, degree: int) -> Support:
    rows = columns.abs().topk(degree, dim=1).indices.sort(dim=1).values
    return Support(rows, columns.gather(1, rows))


def balanced_support(columns: Tensor, degree: int, row_cap: float) -> Support:
    """The largest entries with right degrees between 1 and `row_cap` times the mean.

    In rounds: every column asks for its largest rows that are still free, a row takes the largest values it is offered
    until it is full. Then each row nobody asked for replaces the smallest entry where that costs least.

    Raises:
        ExpanderSaeError: the bound is too tight for every column to find `degree` rows.
    """
    n_latents, d_in = columns.shape
    bound = int(row_cap * n_latents * degree / d_in)
    if bound * (d_in - degree + 1) <= n_latents * degree:
        raise ExpanderSaeError(
            f"expected a row bound above {n_latents * degree / (d_in - degree + 1):.1f} columns; got {bound}, which is "
            f"{row_cap:g} times the mean. Raise row_cap."
        )
    left = columns.abs().clone()
    chosen = torch.zeros(n_latents, d_in, dtype=torch.bool, device="cpu")
    free = torch.full((d_in,), bound, device="cpu")
    lacking = torch.full((n_latents,), degree, device="cpu")
    while bool(lacking.any()):
        open_columns = lacking.nonzero()[:, 0]
        scores = left[open_columns]
        scores[:, free == 0] = -1.0
        offers = scores.topk(degree, dim=1)
        wanted = torch.arange(degree, device="cpu") < lacking[open_columns, None]
        wanted &= offers.values >= 0
        latents = open_columns[:, None].expand_as(wanted)[wanted]
        rows, values = offers.indices[wanted], offers.values[wanted]
        order = values.sort(descending=True, stable=True).indices
        latents, rows = latents[order], rows[order]
        taken = rank_within(rows) < free[rows]
        latents, rows = latents[taken], rows[taken]
        chosen[latents, rows] = True
        left[latents, rows] = -1.0
        lacking -= torch.bincount(latents, minlength=n_latents)
        free -= torch.bincount(rows, minlength=d_in)
    rows = _feed_starved_rows(columns, chosen.nonzero()[:, 1].view(n_latents, degree))
    return Support(rows, columns.gather(1, rows))


def _feed_starved_rows(columns: Tensor, rows: Tensor) -> Tensor:
    """Give each row without a column the one that loses least by taking it for its smallest entry."""
    degrees = torch.bincount(rows.reshape(-1), minlength=columns.shape[1])
    for starved in (degrees == 0).nonzero()[:, 0].tolist():
        residents = columns.gather(1, rows).square()
        residents[degrees[rows] <= 1] = torch.inf  # nobody else may starve for it
        smallest = residents.min(dim=1)
        latent = int((columns[:, starved].square() - smallest.values).argmax())
        slot = int(smallest.indices[latent])
        degrees[rows[latent, slot]] -= 1
        degrees[starved] += 1
        rows[latent, slot] = starved
    return rows.sort(dim=1).values


def support_by_error(columns: Tensor, degree: int, x: Tensor, codes: Codes) -> Support:
    """Iterative hard thresholding of `||X - V H||^2` over V with `degree` entries per column, codes H held fixed.

    `V <- top_degree(V + step * G / S)` with the gradient `G_ij = sum_b e_bi h_bj` and the energies
    `S_j = sum_b h_bj^2`; the step is one over the largest eigenvalue of the codes' Gram matrix scaled by S, so that the
    error cannot rise. A column whose latent never fires here keeps its largest entries.
    """
    n_latents, d_in = columns.shape
    energy = torch.zeros(n_latents, dtype=torch.float32, device="cpu").index_add_(
        0, codes.indices.reshape(-1), codes.values.reshape(-1).square()
    )
    scale = energy.clamp_min(1e-30)[:, None]
    step = 1.0 / _largest_eigenvalue(codes, energy)
    support = _largest(columns, degree)
    for _ in range(ROUNDS):
        dense = torch.zeros(n_latents, d_in, dtype=torch.float32, device="cpu").scatter_(
            1, support.rows, support.values
        )
        residual = x - sparse_decode(codes, None, dense, d_in)
        dense += torch.where(scale > 1e-30, step * _gradient(codes, residual, n_latents) / scale, 0.0)
        support = _largest(dense, degree)
    return support


def _gradient(codes: Codes, residual: Tensor, n_latents: int) -> Tensor:
    """H^T E [n_latents, d_in]: what decoding passes back to a dense dictionary."""
    with torch.enable_grad():
        dictionary = torch.zeros(n_latents, residual.shape[1], requires_grad=True, dtype=torch.float32, device="cpu")
        sparse_decode(codes, None, dictionary, residual.shape[1]).backward(residual)
    assert dictionary.grad is not None
    return dictionary.grad


def _largest_eigenvalue(codes: Codes, energy: Tensor) -> float:
    """Of S^-1/2 H^T H S^-1/2, by fifty rounds of power iteration and a little for what is missing."""
    weights = codes.values / energy.clamp_min(1e-30).sqrt()[codes.indices]
    vector = torch.ones(len(energy), dtype=torch.float32, device="cpu")
    size = 1.0
    for _ in range(50):
        vector = vector / vector.norm().clamp_min(1e-30)
        by_token = (weights * vector[codes.indices]).sum(1, keepdim=True)
        vector = torch.zeros_like(vector).index_add_(0, codes.indices.reshape(-1), (weights * by_token).reshape(-1))
        size = float(vector.norm())
    return max(1.05 * size, 1e-30)
