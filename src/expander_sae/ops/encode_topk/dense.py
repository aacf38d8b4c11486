"""The dense control's encoder: a matrix product and torch.topk, a bounded piece of the batch at a time."""

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

MAX_PIECE = 1 << 25
"""Pre-activations held at once."""


def forward(
    x: Tensor, values: Tensor, k: int, bias: Tensor | None, center: Tensor | None, signed: bool
) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest pre-activations of a dense dictionary, without gradient.

    Slots that the ReLU empties keep whatever latent torch.topk put there, with a zero value.
    """
    with torch.no_grad():
        x = x.detach().to(values.dtype)
        if center is not None:
            x = x - center
        pieces = []
        for part in x.split(max(1, MAX_PIECE // values.shape[0])):
            pre = part @ values.T if bias is None else torch.addmm(bias, part, values.T)
            pieces.append(torch.topk(pre, k, dim=1))
        if not pieces:
            return x.new_empty((0, k), dtype=torch.int64), values.new_empty((0, k))
        codes = torch.cat([piece.values for piece in pieces])
        # A NaN or infinity in x or in the dictionary always reaches the largest pre-activation of some token.
        if not bool(torch.isfinite(codes).all()):
            raise ExpanderSaeError(
                "x or values hold NaN or infinity. "
                "Check the activations for overflow and the dictionary for a diverged run."
            )
        return torch.cat([piece.indices for piece in pieces]), codes if signed else torch.relu_(codes)
