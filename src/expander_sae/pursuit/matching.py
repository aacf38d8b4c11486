"""Matching pursuit; batched over tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.dictionary import Dictionary

from .columns import columns
from .greedy import Pick, greedy
from .pursuit import SteppedPursuit
from .support import Slots


@dataclass(frozen=True)
class MatchingPursuit(SteppedPursuit):
    """Matching pursuit (Mallat, Zhang 1993).

    From r = x, `steps` times: `j = argmax score(W^T r)`, `a = <w_j, r> / ||w_j||^2`, `z_j += a`, `r -= a w_j`; the
    score is |<w_j, r>| if signed and <w_j, r> otherwise (codes are then positive). A column may be picked again, so k
    steps use at most k columns; with more steps, a token that holds k columns goes on among those. A token stops at
    ||r|| <= tolerance * ||x|| or when no score exceeds 1e-5 ||x||. Of columns that repeat an earlier one bit for bit,
    only the first is used.

    Args:
        steps: picks per token; None: k.

    Raises:
        ExpanderSaeError: no such number of steps, or no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3), signed=True)
        >>> MatchingPursuit().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """

    name: ClassVar[str] = "mp"
    in_words: ClassVar[str] = "matching pursuit; mp:N takes N steps instead of k"
    solves: ClassVar[bool] = False

    def passes(self, k: int) -> float:
        """One a step; the core tracks correlations, which costs less where columns meet few others."""
        return self.most_steps(k)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]; there is nothing to start from."""
        square_norms = dictionary.decoder.square().sum(1)

        def move(pick: Pick, slots: Slots, coefficients: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
            alive = pick.alive[:, None]
            latents = pick.latents[:, None]
            amount = torch.where(alive, pick.correlations.gather(1, latents) / square_norms[latents], 0.0)
            column = columns(dictionary, pick.latents, x.dtype)
            coefficients = coefficients.scatter_add(1, pick.slot[:, None], amount)
            return coefficients, torch.where(alive, residual - amount * column, residual)

        return greedy(x, dictionary, k, move, tolerance=self.tolerance, steps=self.most_steps(k))
