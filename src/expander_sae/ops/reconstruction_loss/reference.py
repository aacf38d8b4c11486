"""The definition of the reconstruction loss in plain PyTorch: encode, decode, squared error."""

import torch
from torch import Tensor

from expander_sae.ops.encode_topk import reference as encode
from expander_sae.ops.sparse_decode import reference as decode


def forward(
    x: Tensor,
    rows: Tensor | None,
    decoder: Tensor,
    center: Tensor,
    bias: Tensor | None,
    encoder: Tensor | None,
    k: int,
    signed: bool,
    fixed: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of squared errors (differentiable), codes' indices and values, and the residual x - x_hat (detached)."""
    if fixed is None:
        indices, codes = encode.forward(x, rows, decoder if encoder is None else encoder, k, bias, center, signed)
    else:
        indices, codes = fixed[0], fixed[1].detach()
    residual = x.to(decoder.dtype) - center - decode.forward(indices, codes, rows, decoder, x.shape[1])
    return residual.square().sum(), indices, codes.detach(), residual.detach()


def fired(indices: Tensor, codes: Tensor, n_latents: int) -> Tensor:
    """uint8 [n_latents]: 1 where some code is not zero."""
    hits = torch.zeros(n_latents, dtype=torch.uint8, device=codes.device)
    hits[indices[codes != 0]] = 1
    return hits
