"""Supports of a batch of tokens that grow column by column."""

import math

import torch
from torch import Tensor

from expander_sae.ops.dictionary import Dictionary

from .columns import columns, correlate_support, decode, support_gram

SMALLEST_PIVOT = 1e-5
"""A column whose squared distance to the span of a support is at most this part of its squared norm depends on it."""


class Slots:
    """Up to `capacity` distinct latents per token, in the order they came; tokens may hold different numbers.

    `indices` [batch, capacity] is 0 where `used` [batch, capacity] is False; `count` [batch].
    """

    def __init__(self, batch: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.indices = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self.used = torch.zeros(batch, capacity, dtype=torch.bool, device=device)
        self.count = torch.zeros(batch, dtype=torch.int64, device=device)
        self._tokens = torch.arange(batch, device=device)

    def place(self, latents: Tensor, wanted: Tensor) -> Tensor:
        """Slots [batch] of latents [batch], new ones where a wanted latent is not there yet and there is room."""
        here = (self.indices == latents[:, None]) & self.used
        known = here.any(1)
        slot = torch.where(known, here.int().argmax(1), self.count.clamp(max=self.capacity - 1))
        new = wanted & ~known & (self.count < self.capacity)
        tokens, slots = self._tokens[new], slot[new]
        self.indices[tokens, slots] = latents[new]
        self.used[tokens, slots] = True
        self.count += new
        return slot

    def members(self) -> tuple[Tensor, Tensor]:
        """(tokens, latents) of all used slots, to index a [batch, n_latents] tensor with."""
        tokens, slots = self.used.nonzero(as_tuple=True)
        return tokens, self.indices[tokens, slots]

    def restrict(self, scores: Tensor) -> None:
        """In tokens without a free slot, leave only the scores [batch, n_latents] of latents already in a slot."""
        tokens, latents = self.members()
        kept = scores[tokens, latents]
        scores[self.count == self.capacity] = -math.inf
        scores[tokens, latents] = kept


class Support(Slots):
    """Slots with the Cholesky factor of their Gram matrix, for least squares; all in float64.

    Unused slots are rows of the identity, so that tokens with different counts share every batched solve.
    """

    def __init__(self, dictionary: Dictionary, x: Tensor, capacity: int) -> None:
        super().__init__(x.shape[0], capacity, x.device)
        self.dictionary = dictionary
        self.x = x.double()
        eye = torch.eye(capacity, dtype=torch.float64, device=x.device)
        self.gram = eye.expand(x.shape[0], capacity, capacity).clone()
        self.factor = self.gram.clone()
        self.projections = torch.zeros(x.shape[0], capacity, dtype=torch.float64, device=x.device)

    def append(self, latents: Tensor, wanted: Tensor, *, among: Tensor | None = None) -> Tensor:
        """Add latents [batch] where wanted [batch], there is room, and the column does not depend on the support.

        `L_new = [[L, 0], [z^T, sqrt(p)]]` with `L z = W_S^T w_j` and the pivot `p = ||w_j||^2 - ||z||^2`, the squared
        distance of w_j to the span. Returns the tokens [batch] where it was added. `among` [batch, capacity]: the slots
        that it must not depend on, where not all count; the factor is then no longer one, and `solve` not for use.
        """
        column = columns(self.dictionary, latents, torch.float64)
        if self.dictionary.gram_matrix is None:
            inner = correlate_support(column, self.dictionary, self.indices)
        else:
            inner = self.dictionary.gram_matrix[latents[:, None], self.indices]
        inner = inner * self.used
        factor, met = self.factor, inner
        if among is not None:
            factor, met = factorise(self.gram, among)[1], inner * among
        z = torch.linalg.solve_triangular(factor, met[..., None], upper=False)[..., 0]
        norm = column.square().sum(1)
        pivot = norm - z.square().sum(1)
        added = wanted & (self.count < self.capacity) & (pivot > SMALLEST_PIVOT * norm)
        slot = self.count[added]
        self.place(latents, added)
        tokens = self._tokens[added]
        self.factor[tokens, slot] = z[added]
        self.factor[tokens, slot, slot] = pivot[added].sqrt()
        self.gram[tokens, slot] = inner[added]
        self.gram[tokens, :, slot] = inner[added]
        self.gram[tokens, slot, slot] = norm[added]
        self.projections[tokens, slot] = (column * self.x).sum(1)[added]
        return added

    def extend(self, latents: Tensor, wanted: Tensor) -> None:
        """Add latents [batch, t], earlier ones first, where wanted [batch, t].

        Into an empty support with room for all, one factorisation replaces t small ones; tokens where it meets a
        dependent column go the slow way.
        """
        slow = wanted.any(1)
        if latents.shape[1] <= self.capacity and not bool(self.used.any()):
            slow = self._fill(latents, wanted)
        if bool(slow.any()):
            for i in range(latents.shape[1]):
                self.append(latents[:, i], wanted[:, i] & slow)

    def _fill(self, latents: Tensor, wanted: Tensor) -> Tensor:
        """Put latents straight in; returns the tokens whose columns are dependent, left empty."""
        order = wanted.int().argsort(dim=1, descending=True, stable=True)  # wanted ones to the front
        latents, used = latents.gather(1, order), wanted.gather(1, order)
        gram, factor, dependent = factorise(support_gram(self.dictionary, latents, torch.float64), used)
        fast = ~dependent
        t = latents.shape[1]
        self.indices[fast, :t] = torch.where(used, latents, 0)[fast]
        self.used[fast, :t] = used[fast]
        self.count[fast] = used.sum(1)[fast]
        self.gram[fast, :t, :t] = gram[fast]
        self.factor[fast, :t, :t] = factor[fast]
        self.projections[fast, :t] = (correlate_support(self.x, self.dictionary, latents) * used)[fast]
        return dependent

    def solve(self) -> Tensor:
        """Least squares `z = argmin ||x - W_S z||` [batch, capacity]; zero in unused slots."""
        return torch.cholesky_solve(self.projections[..., None], self.factor)[..., 0] * self.used

    def residual(self, coefficients: Tensor) -> Tensor:
        """`x - W_S z` in the dictionary's dtype [batch, d_in]."""
        dtype = self.dictionary.decoder.dtype
        return self.x.to(dtype) - decode(self.dictionary, self.indices, coefficients)


def factorise(gram: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Gram matrices, Cholesky factors) [batch, t, t] with unused slots as identity rows, and dependent supports."""
    eye = torch.eye(used.shape[1], dtype=gram.dtype, device=gram.device)
    gram = torch.where(used[:, :, None] & used[:, None, :], gram, eye)
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    small = (pivots <= SMALLEST_PIVOT * gram.diagonal(dim1=1, dim2=2)).any(1)
    return gram, factor, (failed > 0) | small
