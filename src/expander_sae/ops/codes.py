"""What an encoder hands on."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Codes(NamedTuple):
    """Sparse codes: at most k active latents per token.

    A code stands for the vector h [n_latents] with `h[indices[i]] = values[i]` and zeros elsewhere; a zero value marks
    an unused slot.
    """

    indices: Tensor
    """int64 [batch, k], distinct within a token."""
    values: Tensor
    """float32 [batch, k], by falling value."""


def pack(indices: Tensor, coefficients: Tensor, k: int, n_latents: int, *, signed: bool) -> Codes:
    """Codes [batch, k] of at most k coefficients [batch, t <= k] by falling size (falling value unless signed).

    A zero coefficient is an unused slot; those come last, on the lowest latents that are not in the code.
    """
    batch, t = indices.shape
    indices, order = indices.sort(dim=1, stable=True)  # so that equal sizes come out by latent
    coefficients = coefficients.gather(1, order)
    size = torch.where(coefficients == 0, -math.inf, coefficients.abs() if signed else coefficients)
    order = size.sort(dim=1, descending=True, stable=True).indices
    indices = torch.cat([indices.gather(1, order), indices.new_zeros(batch, k - t)], dim=1)
    coefficients = torch.cat([coefficients.gather(1, order), coefficients.new_zeros(batch, k - t)], dim=1)
    unused = coefficients == 0
    if bool(unused.any()):
        window = min(n_latents, 2 * k)  # k of the first 2k latents are free, whatever the code
        taken = torch.zeros(batch, window + 1, dtype=torch.uint8, device=indices.device)
        taken.scatter_(1, torch.where(unused | (indices >= window), window, indices), 1)
        free = taken[:, :window].argsort(dim=1, stable=True)
        indices = torch.where(unused, free.gather(1, (unused.cumsum(1) - 1).clamp(min=0)), indices)
    return Codes(indices, coefficients)
