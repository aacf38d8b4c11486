"""From the weights of a dense SAE to the SAE here that computes the same, and back."""

import torch

from expander_sae.pursuit import Encoder, Reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, DenseTopKSae

from .threshold import ThresholdSae
from .weights import DenseWeights

UNIT_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""How far from 1 rounding to a type leaves the length of a unit column; 1e-4 for the rest."""


@torch.no_grad()
def sae_from_dense(weights: DenseWeights) -> DenseTopKSae | ThresholdSae:
    """The SAE here that computes what the weights compute, with the columns' lengths folded into the encoder.

    TopK becomes a `DenseTopKSae` (tied if encoder and decoder are the same unit columns); ReLU, JumpReLU, BatchTopK,
    and TopK that selects over columns of unequal length, become a `ThresholdSae`, which encodes and decodes only.

    Raises:
        ExpanderSaeError: TopK without a k in 1..n_latents.
    """
    topk = weights.activation == "topk"
    if topk and (weights.k is None or not 1 <= weights.k <= weights.n_latents):
        raise ExpanderSaeError(f"expected k in 1..n_latents = {weights.n_latents} for a TopK SAE; got {weights.k!r}")
    norms = weights.decoder.norm(dim=1)
    even = bool((norms - 1).abs().max() <= UNIT_TOLERANCE.get(weights.stored, 1e-4))
    if not topk or not (even or weights.by_decoder_norm):
        return ThresholdSae.from_dense(weights)
    tied = bool((norms - 1).abs().max() <= 1e-5) and torch.equal(weights.encoder, weights.decoder)
    biased = bool(weights.b_enc.any())
    assert weights.k is not None
    sae = DenseTopKSae(d_in=weights.d_in, n_latents=weights.n_latents, k=weights.k, tied=tied, latent_bias=biased)
    sae.columns.raw.copy_(weights.decoder)
    if sae.encoder is not None:
        sae.encoder.copy_(weights.encoder * norms[:, None])
    if sae.b_enc is not None:
        sae.b_enc.copy_(weights.b_enc * norms)
    sae.b_dec.copy_(weights.b_dec)
    sae.metadata = dict(weights.metadata)
    return sae.eval()


@torch.no_grad()
def dense_weights(sae: AbstractSae | ThresholdSae, *, reading: Reading | None = None) -> DenseWeights:
    """An SAE of this package written out as dense matrices, for libraries that know nothing else.

    `dense_bytes` says how large that is. Other libraries encode in one pass, so an SAE whose own codes come from a
    pursuit gives other codes there: that has to be asked for with `reading=Encoder()`.

    Raises:
        ExpanderSaeError: the SAE reads its codes in another way and `reading` is not `Encoder()`, or it is signed.
    """
    if isinstance(sae, ThresholdSae):
        return sae.dense()
    wanted = reading or sae.reading
    if not isinstance(wanted, Encoder):
        raise ExpanderSaeError(
            f"expected an SAE that encodes in one pass, all a dense file can hold; got one that encodes by {wanted}. "
            "Export it as saelens, which keeps the reading, or take the encoder's other codes: --inference encoder."
        )
    if sae.signed:
        raise ExpanderSaeError(
            "expected an SAE with a ReLU, as every dense format has; got a signed SAE. Export it as saelens instead."
        )
    w = sae.dictionary().detached()
    dense, bias = w.dense().clone(), w.bias
    return DenseWeights(
        encoder=dense if w.encoder is None else w.dense(w.encoder).clone(),
        decoder=dense,
        b_enc=torch.zeros(sae.n_latents, dtype=torch.float32, device="cpu") if bias is None else bias.detach().clone(),
        b_dec=sae.center().detach().clone(),
        activation="topk",
        k=sae.k,
        metadata=dict(sae.metadata),
    )


def dense_bytes(sae: AbstractSae | ThresholdSae, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the SAE as a dense file: two matrices [n_latents, d_in] and two biases."""
    return (2 * sae.n_latents * sae.d_in + sae.n_latents + sae.d_in) * dtype.itemsize
