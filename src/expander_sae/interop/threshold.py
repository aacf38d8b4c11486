"""Dense SAEs of other libraries that are not trained here: ReLU, JumpReLU, BatchTopK, TopK over uneven columns."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.ops import Codes, Dictionary
from expander_sae.ops.autograd import own_precision
from expander_sae.pursuit import Encoder, Reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes.base import check_input
from expander_sae.saes.columns import UnitColumns

from .weights import DenseWeights

MAX_PIECE = 1 << 25
"""Pre-activations held at once."""


class ThresholdSae(nn.Module):
    """An inference-only dense SAE: `pre = E (x - b_dec) + b_enc`; active where `pre > threshold` and `pre > 0`.

    Its columns have unit length (other lengths are folded into encoder, bias and threshold), so that codes are in the
    units of the activations, as everywhere here. With `k` and `selection`, the k largest of `pre * selection` are
    active instead of those above a threshold. It has what `evaluate` and compressing read; it cannot be trained.
    """

    kind = "dense, inference only"
    signed = False
    reading = Encoder()
    mask = None
    seed = None

    @torch.inference_mode(False)  # tensors of inference mode could never be trained
    def __init__(
        self,
        *,
        encoder: Tensor,
        decoder: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        activation: str,
        threshold: Tensor | None = None,
        selection: Tensor | None = None,
        k: int | None = None,
    ) -> None:
        super().__init__()
        self.n_latents, self.d_in = decoder.shape
        self.degree, self.activation = self.d_in, activation
        self.fixed_k = k if activation == "topk" else None
        self.k = self.n_latents if k is None else k
        """Active latents per token: exactly for TopK, on average for BatchTopK, else no bound (n_latents)."""
        self.columns = UnitColumns(decoder)
        self.encoder = nn.Parameter(encoder.clone())
        self.b_enc = nn.Parameter(b_enc.clone())
        self.b_dec = nn.Parameter(b_dec.clone())
        self.threshold: Tensor
        self.selection: Tensor
        self.register_buffer("threshold", torch.zeros_like(b_enc) if threshold is None else threshold.clone())
        self.register_buffer("selection", torch.ones_like(b_enc) if selection is None else selection.clone())
        self.register_buffer("input_scale", torch.ones((), dtype=torch.float32, device="cpu"))
        self.metadata: dict[str, Any] = {}
        self.folder: Path | None = None

    @classmethod
    def from_dense(cls, weights: DenseWeights) -> "ThresholdSae":
        """The SAE of these weights, lengths of columns folded away."""
        # A column of zeros decodes to nothing; a length of 1 keeps its encoder as it is.
        norms = weights.decoder.norm(dim=1)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        threshold = weights.threshold
        if threshold is not None and not weights.by_decoder_norm:
            threshold = threshold * norms
        sae = cls(
            encoder=weights.encoder * norms[:, None],
            decoder=weights.decoder,
            b_enc=weights.b_enc * norms,
            b_dec=weights.b_dec,
            activation=weights.activation,
            threshold=threshold,
            selection=None if weights.by_decoder_norm or weights.activation != "topk" else 1 / norms,
            k=weights.k,
        )
        sae.metadata = dict(weights.metadata)
        return sae.eval()

    @property
    def values(self) -> Tensor:
        """Unit-norm dictionary columns [n_latents, d_in]."""
        return self.columns()

    def dictionary(self) -> Dictionary:
        """Its columns with encoder and biases; what is active is decided by a threshold, which is not in it."""
        return Dictionary(None, self.values, self.d_in, self.encoder, self.b_enc, self.b_dec)

    @own_precision
    @torch.no_grad()
    def encode(self, x: Tensor, *, reading: Reading | None = None) -> Codes:
        """Codes of x [batch, d_in], as wide as the most active token needs; unused slots are zero. Not differentiable.

        Raises:
            ExpanderSaeError: x has another width or holds NaN or infinity, or another reading is asked for.
        """
        check_input(x, self.d_in)
        self.read_by(reading)
        pieces = [self._encode(part) for part in x.split(max(1, MAX_PIECE // self.n_latents))]
        width = max(piece.values.shape[1] for piece in pieces)
        padded = [_widen(piece, width) for piece in pieces]
        return Codes(torch.cat([piece.indices for piece in padded]), torch.cat([piece.values for piece in padded]))

    def _encode(self, x: Tensor) -> Codes:
        pre = torch.addmm(self.b_enc, x.to(self.b_dec.dtype) - self.b_dec, self.encoder.T)
        if not bool(torch.isfinite(pre).all()):
            raise ExpanderSaeError("x holds NaN or infinity. Check the activations for overflow.")
        if self.fixed_k is not None:
            indices = torch.topk(pre * self.selection, self.fixed_k, dim=1).indices
            values, order = pre.gather(1, indices).relu().sort(dim=1, descending=True, stable=True)
            return Codes(indices.gather(1, order), values)
        active = torch.where(pre > self.threshold.clamp(min=0), pre, 0.0)
        width = max([1, *(active > 0).sum(1).tolist()])
        values, indices = torch.topk(active, width, dim=1)
        return Codes(indices, values)

    def decode(self, codes: Codes) -> Tensor:
        """x_hat [batch, d_in]."""
        return self.dictionary().decode(codes)

    def forward(self, x: Tensor) -> Tensor:
        """x_hat [batch, d_in]."""
        return self.decode(self.encode(x))

    def read_by(self, reading: Reading | None) -> "ThresholdSae":
        """The SAE itself: there is one way to read it.

        Raises:
            ExpanderSaeError: another reading is asked for.
        """
        if reading is not None and not isinstance(reading, Encoder):
            raise ExpanderSaeError(f"expected the reading 'encoder' for a {self.activation} SAE; got {str(reading)!r}")
        return self

    def center(self) -> Tensor:
        """b_dec [d_in]."""
        return self.b_dec

    def latent_bias(self) -> Tensor:
        """b_enc [n_latents]."""
        return self.b_enc

    def learned_values(self) -> int:
        """All learned numbers, thresholds of a JumpReLU too."""
        thresholds = self.n_latents if self.activation == "jumprelu" else 0
        return sum(parameter.numel() for parameter in self.parameters()) + thresholds

    def decoder_values(self) -> int:
        """d_in * n_latents."""
        return self.d_in * self.n_latents

    @torch.no_grad()
    def dense(self) -> DenseWeights:
        """Its weights, columns of unit length, for writing.

        Raises:
            ExpanderSaeError: it selects over columns of uneven length, which unit columns cannot say.
        """
        if not bool((self.selection == 1).all()):
            raise ExpanderSaeError(
                "expected an SAE over unit columns; got a TopK SAE that selects over columns of uneven length, as "
                "only its own format can say"
            )
        return DenseWeights(
            encoder=self.encoder.detach().clone(),
            decoder=self.values.clone(),
            b_enc=self.b_enc.detach().clone(),
            b_dec=self.b_dec.detach().clone(),
            activation=self.activation,
            k=self.k if self.k < self.n_latents else None,
            threshold=self.threshold.clone() if self.activation == "jumprelu" else None,
            metadata=dict(self.metadata),
        )


def _widen(codes: Codes, width: int) -> Codes:
    """The same codes with more, unused slots, on latents that the token does not use yet."""
    missing = width - codes.values.shape[1]
    if missing == 0:
        return codes
    # The lowest latents that are not taken: among the first `width`, at least `missing` are free.
    taken = torch.zeros(len(codes.indices), width, dtype=torch.bool, device=codes.indices.device)
    low = codes.indices < width
    taken[torch.nonzero(low)[:, 0], codes.indices[low]] = True
    free = taken.long().argsort(dim=1, stable=True)[:, :missing]
    return Codes(torch.cat([codes.indices, free], 1), torch.nn.functional.pad(codes.values, (0, missing)))
