"""An SAE as it is now, in the form that a compiled model carries: fixed tensors and operators of torch.library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expander_sae.ops import Codes, encode_topk, sparse_decode
from expander_sae.pursuit import Encoder, Reading
from expander_sae.pursuit.operators import read_codes, same_text

from .base import AbstractSae


class InGraphSae(nn.Module):
    """What an SAE encodes and decodes by, read off once: no graph break under `torch.compile(fullgraph=True)`.

    The same codes as the SAE, to the bit. Its tensors are buffers that no state dict has, so it may stand inside a
    model whose weights are loaded by name. Later changes of the SAE are not seen. Gradients flow to x where it is read
    by its encoder.

    Args:
        sae: any SAE of this package.
        reading: instead of its own.

    Raises:
        ExpanderSaeError: the reading does not fit the SAE.

    Example:
        >>> from expander_sae.saes import ExpanderSae
        >>> sae = InGraphSae(ExpanderSae(d_in=64, n_latents=512, degree=4, k=8))
        >>> torch.compile(sae, fullgraph=True, backend="eager")(torch.randn(10, 64)).shape
        torch.Size([10, 64])
    """

    rows: Tensor | None
    decoder: Tensor
    encoder: Tensor | None
    bias: Tensor | None
    center: Tensor

    def __init__(self, sae: AbstractSae, *, reading: Reading | None = None) -> None:
        super().__init__()
        sae = sae.read_by(reading)
        self.d_in, self.n_latents, self.k, self.signed = sae.d_in, sae.n_latents, sae.k, sae.signed
        training = sae.training
        try:
            with torch.no_grad():
                w = sae.eval().dictionary()
        finally:
            sae.train(training)
        self.reading = same_text(sae.reading)
        self._by_encoder = isinstance(sae.reading, Encoder)
        tensors = {"decoder": w.decoder, "encoder": w.encoder, "bias": w.bias, "center": w.center, "rows": w.rows}
        for name, tensor in tensors.items():
            kept = None if tensor is None else tensor.detach().clone()
            self.register_buffer(name, kept, persistent=False)

    def encode(self, x: Tensor) -> Codes:
        """Codes of x [batch, d_in]."""
        if self._by_encoder:
            values = self.decoder if self.encoder is None else self.encoder
            return encode_topk(x, self.rows, values, self.k, bias=self.bias, center=self.center, signed=self.signed)
        rest = (self.encoder, self.bias, self.center, self.signed, self.k, self.reading)
        values, indices = read_codes(x.detach(), self.rows, self.decoder, *rest)
        return Codes(indices, values)

    def decode(self, codes: Codes) -> Tensor:
        """x_hat [batch, d_in] = W h + b_dec."""
        return sparse_decode(codes, self.rows, self.decoder, self.d_in) + self.center

    def forward(self, x: Tensor) -> Tensor:
        """x_hat [batch, d_in]."""
        return self.decode(self.encode(x))
