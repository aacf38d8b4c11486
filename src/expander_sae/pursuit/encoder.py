"""The one-pass encoder and TopK."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expander_sae.ops import Codes, encode_topk
from expander_sae.ops.dictionary import Dictionary

from .reading import Reading


@dataclass(frozen=True)
class Encoder(Reading):
    """One pass of the encoder and TopK, as in arXiv 2607.01799: `h = TopK_k(relu(E^T (x - center) + bias))`, without
    the ReLU where the dictionary is signed. Differentiable in everything (`expander_sae.ops.encode_topk`).

    Example:
        >>> import torch
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> Encoder().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 1)
        Codes(indices=tensor([[0]]), values=tensor([[3.]]))
    """

    name: ClassVar[str] = "encoder"
    in_words: ClassVar[str] = "one pass of the encoder and TopK"

    def passes(self, k: int) -> float:
        """One."""
        return 1

    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """k codes of x [batch, d_in]."""
        return encoder_codes(dictionary, x, k, backend=backend)


def encoder_codes(dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
    """The encoder's k best latents of x [batch, d_in], by the dictionary's own encoder, bias and center."""
    w = dictionary
    w.check_width(x)
    weights = w.decoder if w.encoder is None else w.encoder
    return encode_topk(x, w.rows, weights, k, bias=w.bias, center=w.center, signed=w.signed, backend=backend)
