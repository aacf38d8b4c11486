"""Gradient pursuit: a steepest-descent step on the support instead of a least-squares solve; batched over tokens."""

import torch
from torch import Tensor

from expander_sae.ops import Codes

from .dictionary import Dictionary, decode
from .greedy import Pick, greedy
from .support import Slots


def gradient_pursuit(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    *,
    signed: bool = True,
    tolerance: float = 0.0,
    steps: int | None = None,
) -> Codes:
    """Codes [batch, k] by gradient pursuit (Blumensath, Davies 2008).

    From r = x, z = 0, `steps` times: `S <- S + argmax score(W^T r)`, direction `g = W_S^T r`, exact line search `a =
    <r, W_S g> / ||W_S g||^2 = ||g||^2 / ||W_S g||^2`, `z_S += a g`, `r -= a W_S g`. A column may be picked again; a
    token that holds k columns goes on among those. Without `signed` only positive correlations are picked, but later
    steps may turn a coefficient negative, as in OMP. Stops as matching pursuit does, and like it uses only the first of
    columns that repeat each other.

    Args:
        x: activations [batch, d_in], already centered, in the dtype of the values.
        dictionary: columns of unit length.
        k: most columns per token.
        signed: pick by absolute correlation; otherwise only positive correlations are picked.
        tolerance: relative residual at which a token stops.
        steps: picks per token; k if None.

    Example:
        >>> import torch
        >>> from expander_sae.pursuit import as_dictionary
        >>> gradient_pursuit(torch.tensor([[3.0, 0.0, 0.0]]), as_dictionary(torch.eye(3)), 1).values
        tensor([[3.]])
    """

    def move(pick: Pick, slots: Slots, coefficients: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        gradient = pick.correlations.gather(1, slots.indices) * (slots.used & pick.alive[:, None])
        image = decode(dictionary, slots.indices, gradient)
        length = gradient.square().sum(1) / image.square().sum(1)
        step = torch.where(pick.alive, length, 0.0)[:, None]
        return coefficients + step * gradient, residual - step * image

    return greedy(x, dictionary, k, move, signed=signed, tolerance=tolerance, steps=steps)
