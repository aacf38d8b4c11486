"""The Expander SAE: degree non-zeros per column, placed by an expander graph, encoder tied to the decoder."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expander_sae.graphs import Mask, make_mask
from expander_sae.records import ExpanderSaeError

from .base import AbstractSae, check_sizes, check_stages
from .columns import UnitColumns, random_columns


class ExpanderSae(AbstractSae):
    """TopK SAE with a sparse tied dictionary W [d_in, n_latents], `degree` learned values per unit-norm column.

    `h = TopK_k(relu(W^T (x - b_dec) + b_enc))`, `x_hat = W h + b_dec`; without the ReLU when `signed`
    (arXiv 2607.01799). It learns `degree * n_latents + d_in` numbers (plus n_latents with `latent_bias`, plus
    `degree * n_latents` when not `tied`).

    Args:
        d_in: length of an activation.
        n_latents: dictionary columns.
        degree: non-zeros per column.
        k: active latents per token.
        seed: of the mask and of the initial values.
        construction: how the mask is made; see `expander_sae.graphs.CONSTRUCTIONS`.
        signed: keep the k largest signed pre-activations, no ReLU.
        latent_bias: learn b_enc.
        stages: 0 encodes by one-shot TopK; T > 0 by block orthogonal matching pursuit in T stages (b_enc is then
        unused;
            `signed` picks columns by absolute correlation, otherwise by positive correlation).
        mask: use this mask instead of making one.
        tied: the encoder is the decoder; otherwise it has values of its own on the same rows, which start there.
        blank: leave the columns and the encoder unset, for a loader that fills them.

    Raises:
        ExpanderSaeError: impossible sizes, or a mask of other sizes.

    Example:
        >>> import torch
        >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
        >>> sae.decode(sae.encode(torch.randn(10, 64))).shape
        torch.Size([10, 64])
    """

    kind = "expander"
    rows: Tensor
    """Mask [n_latents, degree] in the kernels' integer type."""
    columns: UnitColumns

    def __init__(
        self,
        *,
        d_in: int,
        n_latents: int,
        degree: int,
        k: int,
        seed: int = 0,
        construction: str = "balanced",
        signed: bool = False,
        latent_bias: bool = False,
        stages: int = 0,
        spare: int = 0,
        mask: Mask | None = None,
        tied: bool = True,
        blank: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(d_in, n_latents, k)
        if mask is None:
            mask = make_mask(construction, d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
        if (mask.d_in, mask.n_latents, mask.degree) != (d_in, n_latents, degree):
            raise ExpanderSaeError(
                f"expected a mask with (d_in, n_latents, degree) = {(d_in, n_latents, degree)}; "
                f"got {(mask.d_in, mask.n_latents, mask.degree)}"
            )
        self.d_in, self.n_latents, self.degree, self.k = d_in, n_latents, degree, k
        self.signed, self.seed, self.mask, self.tied = signed, seed, mask, tied
        self.stages, self.spare = check_stages(stages, spare, k, n_latents)
        self.metadata, self.folder = {}, None
        self.columns = UnitColumns.blank(n_latents, degree) if blank else random_columns(n_latents, degree, seed)
        with torch.no_grad():
            start = self.columns.raw if blank else self.columns()
            self.encoder = None if tied else nn.Parameter(torch.empty_like(start) if blank else start.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_latents)) if latent_bias else None
        self.register_buffer("input_scale", torch.tensor(1.0))
        self.register_buffer("rows", self._rows_of(mask))

    @staticmethod
    def _rows_of(mask: Mask) -> Tensor:
        """Rows in the kernels' own integer type."""
        return torch.from_numpy(mask.rows.astype(np.uint16 if mask.d_in <= 65536 else np.int64))

    def set_mask(self, mask: Mask) -> None:
        """Put the values on other rows; the values themselves are the caller's to move.

        Raises:
            ExpanderSaeError: the mask has other sizes.
        """
        if (mask.d_in, mask.n_latents, mask.degree) != (self.d_in, self.n_latents, self.degree):
            raise ExpanderSaeError(
                f"expected a mask with (d_in, n_latents, degree) = {(self.d_in, self.n_latents, self.degree)}; "
                f"got {(mask.d_in, mask.n_latents, mask.degree)}"
            )
        self.mask = mask
        self.rows = self._rows_of(mask).to(self.rows.device)

    @torch.no_grad()
    def draw_as_dense(self) -> None:
        """Start at those values on the mask that a `DenseTopKSae` of the same sizes and seed starts with, as the source
        paper's SAEs do: V = M * G / sqrt(degree), where the dense one has G / sqrt(d_in)."""
        drawn = random_columns(self.n_latents, self.d_in, self.seed).raw
        self.columns.raw.copy_(drawn.gather(1, self.rows.long()) * (self.d_in / self.degree) ** 0.5)
        if self.encoder is not None:
            self.encoder.copy_(self.columns())

    @property
    def values(self) -> Tensor:
        """Unit-norm dictionary values [n_latents, degree]."""
        return self.columns()

    def dictionary(self) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """(rows, values, encoder values or None when tied)."""
        return self.rows, self.values, self.encoder

    def sub_dictionary(self, latents: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """(rows, values, encoder or None, bias) of the chosen latents."""
        bias = self.latent_bias()
        encoder = None if self.encoder is None else self.encoder[latents]
        return self.rows_of(latents), self.values[latents], encoder, None if bias is None else bias[latents]

    def rows_of(self, latents: Tensor) -> Tensor:
        """Rows of some latents [..., degree], in the kernels' own integer type."""
        if self.rows.dtype != torch.uint16:
            return self.rows[latents]
        # torch cannot index uint16 tensors; the bits are the same as int16's.
        return self.rows.view(torch.int16)[latents].view(torch.uint16)

    @torch.no_grad()
    def point_latent(self, latent: int, direction: Tensor, norm: float = 1.0) -> bool:
        """Point a column, of raw length `norm`, and its encoder if it has one, at direction [d_in] restricted to its
        rows; its latent bias goes to zero."""
        wanted = direction[self.rows[latent].long()]
        length = wanted.norm()
        if not length > 0:
            return False
        self.columns.raw[latent] = wanted * (norm / length)
        if self.encoder is not None:
            self.encoder[latent] = wanted / length
        if self.b_enc is not None:
            self.b_enc[latent] = 0.0
        return True

    def decoder_values(self) -> int:
        """degree * n_latents."""
        return self.degree * self.n_latents

    def describe(self) -> dict[str, Any]:
        """Sizes, mode and how to make the mask again."""
        return {
            "kind": self.kind,
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "degree": self.degree,
            "k": self.k,
            "tied": self.tied,
            "signed": self.signed,
            "latent_bias": self.b_enc is not None,
            "stages": self.stages,
            "spare": self.spare,
            "seed": self.seed,
            "mask": {
                "construction": self.mask.construction,
                "seed": self.mask.seed,
                "sha256": self.mask.sha256(),
            },
        }

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """`values` [n_latents, degree], `b_dec`, maybe `encoder`, `b_enc`, and `rows` where no seed can make them."""
        arrays = {"values": self.values.detach().contiguous(), "b_dec": self.b_dec.detach()}
        if self.encoder is not None:
            arrays["encoder"] = self.encoder.detach()
        if self.b_enc is not None:
            arrays["b_enc"] = self.b_enc.detach()
        if self.mask.seed is None:
            arrays["rows"] = torch.from_numpy(self.mask.rows.copy())
        return arrays
