"""Gradient pursuit: a steepest-descent step on the support instead of a least-squares solve; batched over tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.dictionary import Dictionary

from .columns import decode
from .greedy import Pick, greedy
from .pursuit import SteppedPursuit
from .support import Slots


@dataclass(frozen=True)
class GradientPursuit(SteppedPursuit):
    """Gradient pursuit (Blumensath, Davies 2008).

    From r = x, z = 0, `steps` times: `S <- S + argmax score(W^T r)`, direction `g = W_S^T r`, exact line search `a =
    <r, W_S g> / ||W_S g||^2 = ||g||^2 / ||W_S g||^2`, `z_S += a g`, `r -= a W_S g`. A column may be picked again; a
    token that holds k columns goes on among those. Unless signed, only positive correlations are picked, but later
    steps may turn a coefficient negative, as in OMP. Stops as matching pursuit does, and like it uses only the first of
    columns that repeat each other.

    Args:
        steps: picks per token; None: k.

    Raises:
        ExpanderSaeError: no such number of steps, or no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> GradientPursuit().codes(w, torch.tensor([[3.0, 0.0, 0.0]]), 1).values
        tensor([[3.]])
    """

    name: ClassVar[str] = "gradient"
    in_words: ClassVar[str] = "gradient pursuit; gradient:N takes N steps instead of k"
    solves: ClassVar[bool] = False

    def passes(self, k: int) -> float:
        """One a step."""
        return self.most_steps(k)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]; there is nothing to start from."""

        def move(pick: Pick, slots: Slots, coefficients: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
            gradient = pick.correlations.gather(1, slots.indices) * (slots.used & pick.alive[:, None])
            image = decode(dictionary, slots.indices, gradient)
            length = gradient.square().sum(1) / image.square().sum(1)
            step = torch.where(pick.alive, length, 0.0)[:, None]
            return coefficients + step * gradient, residual - step * image

        return greedy(x, dictionary, k, move, tolerance=self.tolerance, steps=self.most_steps(k))
