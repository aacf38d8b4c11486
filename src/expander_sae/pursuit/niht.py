"""Normalised iterative hard thresholding with a restricted step size; batched over tokens."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.ties import largest

from .columns import correlate, decode, repeated_columns
from .pursuit import SteppedPursuit
from .selection import ITERATIONS, score

MARGIN = 0.01  # c in Blumensath and Davies
SHRINK = 1 / (2 * (1 - MARGIN))  # 1 / (kappa (1 - c)), kappa = 2


@dataclass(frozen=True)
class NIHT(SteppedPursuit):
    """Normalised iterative hard thresholding (Blumensath, Davies 2010).

    From z = 0 and S the k largest score(W^T x), at most `steps` times: `g = W^T (x - W z)`, step `mu = ||g_S||^2 /
    ||W_S g_S||^2` on the support alone, `z' = H_k(z + mu g)`. If the support of z' is still S, accept; otherwise accept
    only while `mu <= 0.99 ||z' - z||^2 / ||W (z' - z)||^2`, halving mu (and a little) until it is, so that the residual
    never grows. H_k keeps the k largest by size; unless signed the k largest positive ones. A token stops when ||r||
    falls by less than 1e-6 of itself, or at ||r|| <= tolerance * ||x||. No refit at the end: `refit_codes` does that.
    Of columns that repeat an earlier one bit for bit, only the first is used.

    Args:
        steps: most iterations; None: 50.

    Raises:
        ExpanderSaeError: no such number of steps, or no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3), signed=True)
        >>> NIHT().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """

    name: ClassVar[str] = "niht"
    in_words: ClassVar[str] = "normalised iterative hard thresholding; niht:N iterates at most N times instead of 50"
    solves: ClassVar[bool] = False

    def usual_steps(self, k: int) -> int:
        """Iterations where no number is given."""
        return ITERATIONS

    def passes(self, k: int) -> float:
        """One an iteration; most tokens stop after fewer."""
        return self.most_steps(k)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]; there is nothing to start from."""
        signed, norm = dictionary.signed, x.norm(dim=1)
        repeated = repeated_columns(dictionary)

        def threshold(dense: Tensor) -> tuple[Tensor, Tensor]:
            """(indices, coefficients) [batch, k] of H_k."""
            found, chosen = largest(score(dense, signed).masked_fill(repeated, -math.inf), k)
            # A coefficient of rounding size is no member of the support, or an exact fit would never keep its support.
            rounding = torch.finfo(x.dtype).eps * norm[:, None]
            return chosen, torch.where(found > rounding, dense.gather(1, chosen), 0.0)

        indices, first = threshold(correlate(x, dictionary))
        on_support = first != 0
        coefficients, residual, alive = torch.zeros_like(first), x, norm > 0
        for _ in range(self.most_steps(k)):
            before = residual.norm(dim=1)
            alive = alive & (before > self.tolerance * norm) & on_support.any(1)
            if not bool(alive.any()):
                break
            gradient = correlate(residual, dictionary)
            on_gradient = torch.where(on_support, gradient.gather(1, indices), 0.0)
            image = decode(dictionary, indices, on_gradient).square().sum(1)
            mu = torch.where(image > 0, on_gradient.square().sum(1) / image, 1.0)
            open_, taken = alive.clone(), [indices, coefficients, residual]
            for _ in range(60):
                stepped = (mu[:, None] * gradient).scatter_add(1, indices, coefficients)
                chosen, proposed = threshold(stepped)
                after = x - decode(dictionary, chosen, proposed)
                accepted = open_ & (
                    _same_support(indices, on_support, chosen, proposed != 0)
                    | (
                        mu * (after - residual).square().sum(1)
                        <= (1 - MARGIN) * _squared_change(indices, coefficients, chosen, proposed)
                    )
                )
                new = (chosen, proposed, after)
                taken = [torch.where(accepted[:, None], a, b) for a, b in zip(new, taken, strict=True)]
                open_ &= ~accepted
                if not bool(open_.any()):
                    break
                mu = torch.where(open_, mu * SHRINK, mu)
            indices, coefficients, residual = taken
            on_support = torch.where(alive[:, None], coefficients != 0, on_support)
            alive &= residual.norm(dim=1) < (1 - 1e-6) * before
        return pack(indices, coefficients, k, dictionary.n_latents, signed=signed)


def _matches(indices: Tensor, on: Tensor, others: Tensor, others_on: Tensor) -> Tensor:
    """[batch, k, k]: which slot holds the same latent as which other slot."""
    return (indices[:, :, None] == others[:, None, :]) & on[:, :, None] & others_on[:, None, :]


def _same_support(indices: Tensor, on: Tensor, others: Tensor, others_on: Tensor) -> Tensor:
    """Tokens [batch] with the same latents in both."""
    shared = _matches(indices, on, others, others_on).sum((1, 2))
    return (shared == on.sum(1)) & (shared == others_on.sum(1))


def _squared_change(indices: Tensor, z: Tensor, others: Tensor, w: Tensor) -> Tensor:
    """`||z - w||^2` [batch] of two sparse codes: both squared norms less twice the product of what they share."""
    shared = _matches(indices, z != 0, others, w != 0).to(z.dtype)
    aligned = (shared @ w[..., None])[..., 0]
    meets = shared.any(2)
    lonely = ~shared.any(1)
    return (z - torch.where(meets, aligned, 0.0)).square().sum(1) + (w * lonely).square().sum(1)
