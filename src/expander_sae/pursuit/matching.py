"""Matching pursuit; batched over tokens."""

import torch
from torch import Tensor

from expander_sae.ops import Codes

from .dictionary import Dictionary, columns
from .greedy import Pick, greedy
from .support import Slots


def matching_pursuit(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    *,
    signed: bool = True,
    tolerance: float = 0.0,
    steps: int | None = None,
) -> Codes:
    """Codes [batch, k] by matching pursuit (Mallat, Zhang 1993).

    From r = x, `steps` times: `j = argmax score(W^T r)`, `a = <w_j, r> / ||w_j||^2`, `z_j += a`, `r -= a w_j`; the
    score is |<w_j, r>| if signed and <w_j, r> otherwise (codes are then positive). A column may be picked again, so k
    steps use at most k columns; with more steps, a token that holds k columns goes on among those. A token stops at
    ||r|| <= tolerance * ||x|| or when no score exceeds 1e-5 ||x||. Of columns that repeat an earlier one bit for bit,
    only the first is used.

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
        >>> matching_pursuit(torch.tensor([[3.0, 0.0, -4.0]]), as_dictionary(torch.eye(3)), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """
    square_norms = dictionary.values.square().sum(1)

    def move(pick: Pick, slots: Slots, coefficients: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        alive = pick.alive[:, None]
        latents = pick.latents[:, None]
        amount = torch.where(alive, pick.correlations.gather(1, latents) / square_norms[latents], 0.0)
        column = columns(dictionary, pick.latents, x.dtype)
        coefficients = coefficients.scatter_add(1, pick.slot[:, None], amount)
        return coefficients, torch.where(alive, residual - amount * column, residual)

    return greedy(x, dictionary, k, move, signed=signed, tolerance=tolerance, steps=steps)
