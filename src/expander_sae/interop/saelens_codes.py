"""Codes spread out over all latents, [batch, n_latents], as other libraries pass them around, and back."""

import torch
from torch import Tensor

from expander_sae.ops import Codes, correlate, sparse_decode
from expander_sae.ops.autograd import first_order, own_precision
from expander_sae.pursuit import Dictionary, refit_codes
from expander_sae.saes import AbstractSae

from .weights import matrix

_LEAST_SQUARES = ("stages", "refit", "omp", "warm", "nnomp", "cosamp")
"""Inferences whose codes are the least-squares fit on their support."""


@own_precision
def spread_codes(sae: AbstractSae, x: Tensor, scale: float = 1.0) -> Tensor:
    """The SAE's codes of x [batch, d_in], times scale, as [batch, n_latents].

    Differentiable in x and the SAE: through the selected pre-activations of an encoder, or, where the codes are the
    least-squares fit on their support, through that fit with the support held fixed. Other pursuits pass no gradient.
    """
    codes = sae.encode(x)
    values = codes.values
    wants_gradient = torch.is_grad_enabled() and x.requires_grad and not values.requires_grad
    if wants_gradient and sae.own_inference().name in _LEAST_SQUARES:
        rows, decoder, _ = sae.dictionary()
        refit = refit_codes(
            x, codes.indices, Dictionary(rows, decoder, sae.d_in), used=values != 0, center=sae.center()
        ).codes.values
        values = values + (refit - refit.detach())  # the codes themselves stay as they are, to the bit
    # Added, not set: unused slots of a dense pursuit may repeat a latent, with a zero.
    return values.new_zeros(len(x), sae.n_latents).scatter_add(1, codes.indices, values * scale)


@own_precision
def decode_dense(sae: AbstractSae, acts: Tensor) -> Tensor:
    """x_hat [batch, d_in] of any activations [batch, n_latents], float32, through the sparse dictionary.

    Differentiable in the dictionary, b_dec and every activation, those that are zero too.
    """
    rows, decoder, _ = sae.dictionary()
    center = sae.center()
    active = int((acts != 0).sum(1).max()) if len(acts) else 0
    if rows is None or active > sae.n_latents // 8:
        # Nearly everything is active, as in a sum over latents: a matrix product is faster than a long sparse code.
        return acts @ (decoder if rows is None else matrix(rows, decoder, sae.d_in)) + center
    indices = torch.topk(acts.detach().abs(), max(active, 1), dim=1).indices
    codes = Codes(indices, acts.detach().gather(1, indices))
    x_hat = sparse_decode(codes, rows, decoder, sae.d_in)
    if torch.is_grad_enabled() and acts.requires_grad:
        x_hat = x_hat + _Adjoint.apply(acts, rows, decoder.detach(), sae.d_in)  # type: ignore[operator]
    return x_hat + center


class _Adjoint(torch.autograd.Function):
    """Zero forward; backward hands all activations their gradient W^T g, not only the active ones."""

    @staticmethod
    def forward(ctx, acts: Tensor, rows: Tensor, values: Tensor, d_in: int) -> Tensor:
        ctx.save_for_backward(rows, values)
        return acts.new_zeros(len(acts), d_in)

    @staticmethod
    @first_order
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, values = ctx.saved_tensors
        return correlate(gradients[0].contiguous(), rows, values), None, None, None
