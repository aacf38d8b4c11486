"""The weights of a dense SAE as every other library stores them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expander_sae.ops.autograd import own_precision


@dataclass
class DenseWeights:
    """`pre = encoder (x - b_dec) + b_enc`, an activation, `x_hat = decoder^T h + b_dec`; all float32.

    The activation is "topk" (the k largest of `pre`, or of `pre` times the column's length if `by_decoder_norm`; then a
    ReLU), "relu", or "jumprelu" (`pre` where it exceeds `threshold` and 0).
    """

    encoder: Tensor
    """[n_latents, d_in]."""
    decoder: Tensor
    """[n_latents, d_in], columns of any length."""
    b_enc: Tensor
    """[n_latents]."""
    b_dec: Tensor
    """[d_in]."""
    activation: str
    k: int | None = None
    """Active latents per token: exactly ("topk"), on average, or unknown."""
    threshold: Tensor | None = None
    """[n_latents], for "jumprelu"."""
    by_decoder_norm: bool = False
    """The activation acts on `pre` times the column's length, and the decoder's columns count as unit."""
    stored: torch.dtype = torch.float32
    """The type they were stored in."""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def d_in(self) -> int:
        """Length of an activation."""
        return self.decoder.shape[1]

    @property
    def n_latents(self) -> int:
        """Dictionary columns."""
        return self.decoder.shape[0]

    @own_precision
    def centered(self, subtract_b_dec: bool) -> "DenseWeights":
        """These weights, `b_enc` changed so that they compute the same if the library does not subtract `b_dec`."""
        if not subtract_b_dec:
            self.b_enc = self.b_enc + self.encoder @ self.b_dec
        return self
