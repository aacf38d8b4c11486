"""The dense control: a TopK SAE with a full dictionary, tied or untied."""

from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.ops import Dictionary
from expander_sae.pursuit import Encoder, Reading
from expander_sae.pursuit.reading import checked_reading

from .base import AbstractSae, check_sizes, one, zeros
from .columns import UnitColumns, random_columns


class DenseTopKSae(AbstractSae):
    """TopK SAE with W [d_in, n_latents] dense, unit-norm columns; encoder W^T (tied) or free and starting at W^T.

    Encodes with a matrix product and TopK; decodes and differentiates with the same sparse code as `ExpanderSae`, so
    that a comparison between the two is fair.

    Args:
        d_in: length of an activation.
        n_latents: dictionary columns.
        k: active latents per token.
        seed: of the initial values.
        tied: the encoder is the decoder.
        signed: keep the k largest signed pre-activations, no ReLU.
        latent_bias: learn b_enc.
        reading: how codes are read (`expander_sae.pursuit`); None: by one pass of its encoder. Pursuits leave b_enc
            unused.
        blank: leave the columns and the encoder unset, for a loader that fills them.

    Raises:
        ExpanderSaeError: impossible sizes.

    Example:
        >>> import torch
        >>> DenseTopKSae(d_in=64, n_latents=512, k=8)(torch.randn(10, 64)).shape
        torch.Size([10, 64])
    """

    kind = "dense"
    columns: UnitColumns

    @torch.inference_mode(False)  # tensors of inference mode could never be trained
    def __init__(
        self,
        *,
        d_in: int,
        n_latents: int,
        k: int,
        seed: int = 0,
        tied: bool = True,
        signed: bool = False,
        latent_bias: bool = False,
        reading: Reading | None = None,
        blank: bool = False,
    ) -> None:
        super().__init__()
        d_in, n_latents, k = check_sizes(d_in, n_latents, k)
        self.d_in, self.n_latents, self.degree, self.k = d_in, n_latents, d_in, k
        self.tied, self.signed, self.seed = tied, signed, seed
        self.reading = Encoder() if reading is None else checked_reading(reading)
        self.reading.check(k, n_latents)
        self.metadata, self.folder = {}, None
        self.columns = UnitColumns.blank(n_latents, d_in) if blank else random_columns(n_latents, d_in, seed)
        with torch.no_grad():
            start = self.columns.raw if blank else self.columns()
            self.encoder = None if tied else nn.Parameter(torch.empty_like(start) if blank else start.clone())
        self.b_dec = nn.Parameter(zeros(d_in))
        self.b_enc = nn.Parameter(zeros(n_latents)) if latent_bias else None
        self.register_buffer("input_scale", one())

    @torch.no_grad()
    def draw_encoder(self) -> None:
        """Start the encoder of an untied SAE at random, at values other than the decoder's."""
        assert self.encoder is not None
        generator = torch.Generator().manual_seed(self.seed)
        # The first draw of a seed is the decoder's.
        _, drawn = (
            torch.randn(self.encoder.shape, generator=generator, dtype=torch.float32, device="cpu") for _ in range(2)
        )
        self.encoder.copy_(drawn / self.d_in**0.5)

    @property
    def values(self) -> Tensor:
        """Unit-norm dictionary columns [n_latents, d_in]."""
        return self.columns()

    def dictionary(self) -> Dictionary:
        """Its columns with encoder, biases and sign rule, in the units of activations."""
        return Dictionary(
            None, self.values, self.d_in, self.encoder, self.latent_bias(), self.center(), signed=self.signed
        )

    @torch.no_grad()
    def point_latent(self, latent: int, direction: Tensor, norm: float = 1.0) -> bool:
        """Point a column, of raw length `norm`, and its encoder if it has one, at direction [d_in]; its latent bias
        goes to zero."""
        length = direction.norm()
        if not length > 0:
            return False
        self.columns.raw[latent] = direction * (norm / length)
        if self.encoder is not None:
            self.encoder[latent] = direction / length
        if self.b_enc is not None:
            self.b_enc[latent] = 0.0
        return True

    def decoder_values(self) -> int:
        """d_in * n_latents."""
        return self.d_in * self.n_latents

    def describe(self) -> dict[str, Any]:
        """Sizes and mode."""
        return {
            "kind": self.kind,
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "tied": self.tied,
            "signed": self.signed,
            "latent_bias": self.b_enc is not None,
            "reading": str(self.reading),
            "seed": self.seed,
        }

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """`values` [n_latents, d_in], `b_dec`, and `encoder`, `b_enc` where they are learned."""
        arrays = {"values": self.values.detach().contiguous(), "b_dec": self.b_dec.detach()}
        if self.encoder is not None:
            arrays["encoder"] = self.encoder.detach()
        if self.b_enc is not None:
            arrays["b_enc"] = self.b_enc.detach()
        return arrays
