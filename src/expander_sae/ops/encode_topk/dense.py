"""The dense control's encoder: a matrix product and torch.topk, a bounded piece of the batch at a time."""

import torch
from torch import Tensor

from expander_sae.ops.checks import check_numbers, check_overflow
from expander_sae.ops.ties import largest_of_product

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
            check_numbers(x[:0], None, values[:0], center=center)
            x = x - center
        pieces = []
        for part in x.split(max(1, MAX_PIECE // values.shape[0])):
            pre = part @ values.T if bias is None else torch.addmm(bias, part, values.T)
            # One pass over [batch, n_latents], which a NaN or infinity of any input reaches; a sum may overflow alone.
            if not bool(torch.isfinite(pre.sum())):
                check_numbers(part, None, values, bias=bias)
                check_overflow(pre, "a pre-activation")
            pieces.append(largest_of_product(pre, values, k, bias))
        if not pieces:
            return x.new_empty((0, k), dtype=torch.int64), values.new_empty((0, k))
        codes = torch.cat([piece[0] for piece in pieces])
        return torch.cat([piece[1] for piece in pieces]), codes if signed else torch.relu_(codes)
