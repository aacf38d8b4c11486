"""An encoder that fires where the dense SAE fired, with values on the rows the dictionary keeps."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.autograd import own_precision
from expander_sae.saes import AbstractSae, ExpanderSae
from expander_sae.training import amortisation_loss

LOAD = 1e-4
"""Part of a support's mean variance added to its diagonal, so that rows that move together stay solvable."""


class SparseEncoder(NamedTuple):
    """values [n_latents, degree] on the given rows, and bias [n_latents]."""

    values: Tensor
    bias: Tensor


@own_precision
@torch.no_grad()
def regressed_encoder(encoder: Tensor, bias: Tensor | None, center: Tensor, rows: Tensor, x: Tensor) -> SparseEncoder:
    """The encoder on `rows` whose pre-activations are closest to the dense one's over x [tokens, d_in].

    Per latent the least squares `min E (e_j . (x - c) + b_j - u . (x_S - c_S) - v)^2`: with C the covariance of x,
    `u = C_SS^-1 C_S: e_j` and v what is left of the mean. Truncating e_j instead forgets that the rows that are
    dropped can be read off the ones that stay.

    Args:
        encoder: dense encoder [n_latents, d_in].
        bias: its latent bias [n_latents], or None.
        center: what is subtracted from x first [d_in].
        rows: int64 [n_latents, degree].
        x: activations.
    """
    mean = x.double().mean(0)
    centered = x.double() - mean
    covariance = centered.T @ centered / len(x)
    wide = encoder.double()
    values = torch.empty(rows.shape, dtype=torch.float64, device="cpu")
    degree = rows.shape[1]
    step = max(1, (1 << 24) // degree**2)  # the little matrices of so many latents at once
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        inside = covariance[part[:, :, None], part[:, None, :]]
        load = LOAD * inside.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        inside += load[:, None, None] * torch.eye(degree, dtype=torch.float64, device="cpu")
        wanted = (wide[first : first + step] @ covariance).gather(1, part)
        values[first : first + step] = torch.linalg.solve(inside, wanted)
    shift = mean - center.double()
    offset = wide @ shift - (values * shift[rows]).sum(1)
    if bias is not None:
        offset += bias.double()
    return SparseEncoder(values.float(), offset.float())


class KeepFiring:
    """An extra loss for training: the encoder's pre-activations are to be the dense SAE's codes.

    `expander_sae.training.amortisation_loss` with the dense SAE in the place of pursuit.
    """

    def __init__(self, dense: Any) -> None:
        self.dense = dense

    def __call__(self, sae: AbstractSae, x: Tensor, codes: Codes) -> Tensor:
        """Loss on x [batch, d_in]; codes are the sparse SAE's own."""
        assert isinstance(sae, ExpanderSae)
        with torch.no_grad():
            target = self.dense.encode(x)
        return amortisation_loss(sae, x, target, Codes(codes.indices, codes.values.detach()))
