"""Ties go to the lower latent, also where a matrix product rounds the scores of equal columns differently.

A matrix product sums in an order that depends on the processor, its library and where in the matrix a column stands, so
two columns that are equal bit for bit may get scores that differ in the last bit. Which of them a TopK took would hang
on that. So equal columns get the score of the first of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CLOSE = 1e-5
"""Of a token's largest score: scores that are farther apart differ by more than rounding."""


class EqualColumns(NamedTuple):
    """Columns that equal an earlier one."""

    later: Tensor
    """Latents of the repetitions, rising."""
    first: Tensor
    """For each, the lowest latent with that column."""

    def level(self, scores: Tensor) -> Tensor:
        """Scores [batch, n_latents] with those of the first of equal columns at all of them, in place."""
        if len(self.later):
            scores[:, self.later] = scores[:, self.first]
        return scores


def fingerprints(rows: Tensor | None, values: Tensor, d_in: int, *, signed: bool) -> Tensor:
    """int64 [n_latents]: equal for columns that are equal bit for bit (or opposite, if signed), in O(n * degree).

    They do not depend on the order of rows or on explicit zeros.
    """
    values = values.detach()
    generator = torch.Generator(device="cpu").manual_seed(0)
    keys = torch.randint(-(2**62), 2**62, (d_in,), generator=generator, device="cpu", dtype=torch.int64) * 2 + 1
    keys = keys.to(values.device)
    weights = keys if rows is None else keys[rows.long()]
    prints = _print(values, weights)
    return torch.minimum(prints, _print(-values, weights)) if signed else prints


def equal_columns(prints: Tensor) -> EqualColumns:
    """Which columns repeat an earlier one, by their fingerprints."""
    ordered, order = prints.sort(stable=True)  # equal ones in the order of latents
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[1:] = ordered[1:] == ordered[:-1]
    places = torch.arange(len(prints), dtype=torch.int64, device=prints.device)
    start = torch.where(again, 0, places).cummax(0).values
    later, back = order[again].sort()
    return EqualColumns(later, order[start[again]][back])


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and indices [batch, count] of the largest scores [batch, n_latents], ties to the lower latent."""
    if count == 1:
        found = scores.max(dim=1, keepdim=True)  # torch promises the first of equal maxima
        return found.values, found.indices
    found = scores.topk(count, dim=1)
    values, indices = found.values, found.indices
    # topk promises nothing about ties: order them, and redo the tokens where a tie straddles the border.
    indices = indices.sort(dim=1).values
    values = scores.gather(1, indices)
    values, order = values.sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, order)
    border = values[:, -1:]
    torn = (scores == border).sum(1) > (values == border).sum(1)
    if bool(torn.any()):
        again = scores[torn].sort(dim=1, descending=True, stable=True)
        values[torn], indices[torn] = again.values[:, :count], again.indices[:, :count]
    return values, indices


def largest_of_product(pre: Tensor, values: Tensor, k: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values and indices [batch, k] of the largest pre-activations of a dense dictionary, ties to the lower latent.

    Only columns whose scores are neighbours within rounding are compared, so that one token of a large dictionary does
    not pay for a look at all of it.
    """
    found = pre.topk(min(k + 1, pre.shape[1]), dim=1)
    gap = found.values[:, :-1] - found.values[:, 1:]
    close = gap <= CLOSE * found.values.abs().amax(dim=1, keepdim=True)
    one, other = found.indices[:, :-1][close], found.indices[:, 1:][close]
    if len(one) and bool((gap == 0).any() | _any_equal(one, other, values, bias)):
        prints = with_bias(fingerprints(None, values, values.shape[1], signed=False), bias)
        return largest(equal_columns(prints).level(pre), k)
    return found.values[:, :k], found.indices[:, :k]


def _any_equal(one: Tensor, other: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    latents, at = torch.cat([one, other]).unique(return_inverse=True)
    prints = fingerprints(None, values[latents], values.shape[1], signed=False)
    prints = with_bias(prints, None if bias is None else bias[latents])
    return (prints[at[: len(one)]] == prints[at[len(one) :]]).any()


def with_bias(prints: Tensor, bias: Tensor | None) -> Tensor:
    """The fingerprints of columns and their biases [n_latents] together."""
    if bias is None:
        return prints
    return prints + _mixed(bias.detach().to(torch.float64)) * 3


def _print(values: Tensor, weights: Tensor) -> Tensor:
    """Wrapping integer sums: exact in any order."""
    return (_mixed(values) * weights).sum(1)


def _mixed(values: Tensor) -> Tensor:
    kind = torch.int64 if values.dtype == torch.float64 else torch.int32
    bits = (values + 0.0).contiguous().view(kind).long()  # + 0.0 turns -0 into 0
    # Mix before weighting: a sign is the top bit alone, which an even number of products would cancel.
    mixed = bits * 0x2545F4914F6CDD1D
    return mixed ^ (mixed >> 29)
