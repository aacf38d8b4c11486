"""The reconstruction loss on the C++ core: every gradient in one visit to each token."""

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import native_core as core
from expander_sae.ops.encode_topk import native as encode


class Result(NamedTuple):
    """Loss and gradients of one batch."""

    loss: float
    indices: Tensor
    codes: Tensor
    residual: Tensor | None
    fired: Tensor
    grad_decoder: Tensor
    grad_encoder: Tensor | None
    grad_center: Tensor
    grad_bias: Tensor | None


def forward(
    x: Tensor,
    rows: Tensor | None,
    decoder: Tensor,
    k: int,
    center: Tensor,
    bias: Tensor | None,
    encoder: Tensor | None,
    signed: bool,
    keep_residual: bool,
    fixed: tuple[Tensor, Tensor] | None,
) -> Result:
    """Encode (unless the codes are `fixed`), then the loss and all its gradients; no [batch, n_latents]."""
    rows = core.rows16(rows)
    x, decoder, center = core.plain(x), core.plain(decoder), core.plain(center)
    bias, encoder = core.plain(bias), core.plain(encoder)
    if fixed is None:
        indices, codes = encode.forward(x, rows, decoder if encoder is None else encoder, k, bias, center, signed)
    else:
        indices, codes = core.plain(fixed[0]), core.plain(fixed[1])
        bias = encoder = None
    residual = torch.empty(x.shape, dtype=torch.float32, device="cpu") if keep_residual else None
    fired = torch.zeros(decoder.shape[0], dtype=torch.uint8, device="cpu")
    grad_decoder, grad_center = torch.empty_like(decoder), torch.empty_like(center)
    grad_encoder = None if encoder is None else torch.empty_like(encoder)
    grad_bias = None if bias is None else torch.empty_like(bias)
    loss = core.call(
        "loss",
        indices,
        codes,
        x,
        center,
        rows,
        decoder,
        encoder,
        1.0,
        fixed is not None,
        torch.get_num_threads(),
        grad_decoder,
        grad_encoder,
        grad_center,
        grad_bias,
        residual,
        fired,
    )
    return Result(loss, indices, codes, residual, fired, grad_decoder, grad_encoder, grad_center, grad_bias)
