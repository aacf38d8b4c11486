"""How well an SAE rebuilds activations: sums over tokens that can be added, and metrics read from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes.init import token_norms


class ReconstructionMetrics(NamedTuple):
    """The reconstruction metrics of one SAE on `tokens` tokens; `docs/reference/metrics.md` has the formulas."""

    tokens: int
    fvu: float
    """NaN where all tokens are equal: there is no variance to leave unexplained."""
    explained_variance: float
    rel_err: float
    cosine: float
    l0: float
    dead_fraction: float
    mean: Tensor
    """x̄, float64 [d_in]."""
    firing_counts: Tensor
    """Tokens on which each latent's code is not zero, int64 [n_latents]."""


class ReconstructionAccumulator:
    """Float64 sums over tokens from which every reconstruction metric follows.

    With e = x − x̂ and a reference point c, near x̄ and fixed by the first tokens seen, the sums are
    Σ‖e‖², Σ(x − c), Σ‖x − c‖², Σ‖e‖/‖x‖, Σ⟨x, x̂⟩/(‖x‖‖x̂‖) and, per latent, the tokens on which it fires.
    The variance is

        Σ‖x − x̄‖² = Σ‖x − c‖² − ‖Σ(x − c)‖² / tokens,

    so one pass is enough, and the shift by c keeps the difference from cancelling where most of the power of
    x is in its mean, as in a residual stream. Accumulators of shards or ranks are added: `merge` or `+`.
    """

    def __init__(self, d_in: int, n_latents: int) -> None:
        self.d_in = d_in
        self.n_latents = n_latents
        self.tokens = 0
        self._reference: Tensor | None = None
        self._shifted_sum = torch.zeros(d_in, dtype=torch.float64, device="cpu")
        self._shifted_square = 0.0
        self._squared_error = 0.0
        self._relative_error = 0.0
        self._cosine = 0.0
        self._nonzero_tokens = 0
        self._firing_counts = torch.zeros(n_latents, dtype=torch.int64, device="cpu")

    def update(self, x: Tensor, x_hat: Tensor, codes: Codes) -> None:
        """Add a batch of tokens.

        Args:
            x: activations [batch, d_in], any float type and device.
            x_hat: their reconstructions [batch, d_in].
            codes: indices and values [batch, k]; a value of zero is not a firing.

        Raises:
            ExpanderSaeError: the shapes disagree, a token is not finite, or an index is outside 0..n_latents − 1.
        """
        if x.ndim != 2 or x.shape[1] != self.d_in or x_hat.shape != x.shape or len(codes.indices) != len(x):
            raise ExpanderSaeError(
                f"expected x and x_hat [batch, {self.d_in}] and codes of the same batch; "
                f"got x {list(x.shape)}, x_hat {list(x_hat.shape)} and codes {list(codes.indices.shape)}"
            )
        if len(x) == 0:
            return
        x = x.detach().double()
        x_hat = x_hat.detach().double()
        if self._reference is None:
            self._reference = x.mean(0).cpu()
        shifted = x - self._reference.to(x.device)
        error_norm = (x - x_hat).norm(dim=1)
        x_norm, x_hat_norm = (
            token_norms(x, "activations", self.tokens),
            token_norms(x_hat, "reconstructions", self.tokens),
        )
        product = x_norm * x_hat_norm
        # A token of norm zero has no relative error and no direction: it is left out of both means.
        # A reconstruction of norm zero has a direction nobody predicted: it counts as cosine 0.
        has_norm = x_norm > 0
        ratio = torch.where(has_norm, error_norm / x_norm, 0.0)
        cosine = torch.where(product == 0, 0.0, (x * x_hat).sum(1) / product)
        self.tokens += len(x)
        self._shifted_sum += shifted.sum(0).cpu()
        self._shifted_square += float(shifted.square().sum())
        self._squared_error += float(error_norm.square().sum())
        self._relative_error += float(ratio.sum())
        self._cosine += float(cosine.sum())
        self._nonzero_tokens += int(has_norm.sum())
        self._firing_counts += self._count(codes)

    def _count(self, codes: Codes) -> Tensor:
        fired = codes.indices[codes.values != 0].reshape(-1).cpu()
        if len(fired) and (int(fired.min()) < 0 or int(fired.max()) >= self.n_latents):
            raise ExpanderSaeError(
                f"expected latent indices in 0..{self.n_latents - 1}; got {int(fired.min())}..{int(fired.max())}"
            )
        return torch.bincount(fired, minlength=self.n_latents)

    def merge(self, other: ReconstructionAccumulator) -> ReconstructionAccumulator:
        """Add another accumulator's tokens to this one and return this one; the other is left as it was.

        Its sums around c′ move to this one's c: Σ(x − c) = Σ(x − c′) + tokens′ (c′ − c), and so on.

        Raises:
            ExpanderSaeError: d_in or n_latents differ.
        """
        if (other.d_in, other.n_latents) != (self.d_in, self.n_latents):
            raise ExpanderSaeError(
                f"expected accumulators of one shape; got (d_in, n_latents) {(self.d_in, self.n_latents)} "
                f"and {(other.d_in, other.n_latents)}"
            )
        if other._reference is None:
            return self
        if self._reference is None:
            self._reference = other._reference.clone()
        move = other._reference - self._reference
        other_sum, other_square = other._shifted_sum, other._shifted_square
        self._shifted_square += other_square + 2 * float(other_sum @ move) + other.tokens * float(move.square().sum())
        self._shifted_sum = self._shifted_sum + other_sum + other.tokens * move
        self.tokens += other.tokens
        self._squared_error += other._squared_error
        self._relative_error += other._relative_error
        self._cosine += other._cosine
        self._nonzero_tokens += other._nonzero_tokens
        self._firing_counts = self._firing_counts + other._firing_counts
        return self

    def __add__(self, other: ReconstructionAccumulator) -> ReconstructionAccumulator:
        total = ReconstructionAccumulator(self.d_in, self.n_latents)
        return total.merge(self).merge(other)

    def result(self) -> ReconstructionMetrics:
        """The metrics of all tokens seen so far.

        Raises:
            ExpanderSaeError: no token was seen.
        """
        if self.tokens == 0 or self._reference is None:
            raise ExpanderSaeError("expected at least one token to evaluate on; got none")
        shift = self._shifted_sum / self.tokens
        variance = self._shifted_square - self.tokens * float(shift.square().sum())
        # Rounding leaves about 1e-15 of the sums and 1e-32 of the power: at that level all tokens are equal.
        rounding = 1e-14 * self._shifted_square + 1e-28 * self.tokens * float(self._reference.square().sum())
        has_variance = variance > rounding
        fvu = self._squared_error / variance if has_variance else float("nan")
        measured = self._nonzero_tokens or float("nan")
        return ReconstructionMetrics(
            tokens=self.tokens,
            fvu=fvu,
            explained_variance=1.0 - fvu,
            rel_err=self._relative_error / measured,
            cosine=self._cosine / measured,
            l0=float(self._firing_counts.sum()) / self.tokens,
            dead_fraction=float((self._firing_counts == 0).double().mean()),
            mean=self._reference + shift,
            firing_counts=self._firing_counts.clone(),
        )
