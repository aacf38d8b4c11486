"""Squared reconstruction error of an SAE, with every gradient from one pass over the codes."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.ops.autograd import differentiable_once, first_order, op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import FLOATS, check_dictionary, check_tensor
from expander_sae.ops.codes import Codes
from expander_sae.ops.encode_topk import native as encode_native
from expander_sae.ops.reconstruction_loss import native, reference
from expander_sae.records import ExpanderSaeError


class ReconstructionLoss(NamedTuple):
    """The loss of one batch and what training reads besides it."""

    loss: Tensor
    """Sum over the batch of ||x - x_hat||^2, a scalar to call backward on."""
    codes: Codes
    """Detached codes."""
    residual: Tensor | None
    """x - x_hat [batch, d_in], detached; None unless asked for."""
    fired: Tensor
    """uint8 [n_latents]: 1 where some code of the batch is not zero."""


@op
def reconstruction_loss(
    x: Tensor,
    rows: Tensor | None,
    decoder: Tensor,
    k: int,
    *,
    center: Tensor,
    bias: Tensor | None = None,
    encoder: Tensor | None = None,
    signed: bool = False,
    codes: Codes | None = None,
    keep_residual: bool = False,
    backend: str = "auto",
) -> ReconstructionLoss:
    """Sum of squared errors of `x_hat = W topk(E^T (x - center) + bias) + center`, with W = decoder, E = encoder.

    The gradient flows through the selected codes into decoder, encoder (the decoder itself when tied), center and bias;
    the selection is held fixed, and x gets none. There are first derivatives only, as in `encode_topk`.

    Args:
        x: activations [batch, d_in].
        rows: mask [n_latents, degree], or None for a dense dictionary.
        decoder: values [n_latents, degree] (dense: [n_latents, d_in]).
        k: active latents per token.
        center: subtracted before encoding and added after decoding [d_in].
        bias: latent bias [n_latents].
        encoder: encoder values shaped like `decoder`, on the same rows; None ties it to the decoder.
        signed: as in `encode_topk`.
        codes: use these codes, from pursuit say, and hold them fixed: only decoder and center learn. For codes that are
            the least-squares fit on their support this is the whole gradient, the residual being orthogonal to the
            support.
        keep_residual: also return x - x_hat.
        backend: "auto", "native" or "reference".

    Raises:
        ExpanderSaeError: as in `encode_topk`.

    Example:
        >>> import torch
        >>> rows, values = torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2)
        >>> out = reconstruction_loss(torch.tensor([[1.0, 2.0, 0.0]]), rows, values, 1, center=torch.zeros(3))
        >>> out.loss
        tensor(5.)
    """
    check_tensor("x", x, "[batch, d_in]", (None, None), FLOATS)
    check_dictionary(rows, decoder, x.shape[1])
    if encoder is not None:
        check_tensor("encoder", encoder, "[n_latents, degree]", tuple(decoder.shape), (decoder.dtype,))
    check_tensor("center", center, "[d_in]", (x.shape[1],), (decoder.dtype,))
    if bias is not None:
        check_tensor("bias", bias, "[n_latents]", (decoder.shape[0],), (decoder.dtype,))
    if not 1 <= k <= decoder.shape[0]:
        raise ExpanderSaeError(f"expected k in 1..n_latents = {decoder.shape[0]}; got {k}")
    if codes is not None:
        check_tensor("codes.indices", codes.indices, "[batch, k]", (x.shape[0], k), (torch.int64,))
        check_tensor("codes.values", codes.values, "[batch, k]", (x.shape[0], k), (decoder.dtype,))
    name = choose_backend(
        backend,
        x.device,
        native=encode_native.supports(x, rows, decoder),
        triton="there is no fused Triton loss yet; encode_topk and sparse_decode have kernels",
    )
    if name == "reference":
        definition = functools.partial(reference.forward, k=k, signed=signed, fixed=codes)
        loss, indices, values, residual = differentiable_once(
            definition, x.detach(), rows, decoder, center, bias, encoder
        )
        fired = reference.fired(indices, values, decoder.shape[0])
        return ReconstructionLoss(loss, Codes(indices, values), residual if keep_residual else None, fired)
    loss, indices, values, residual, fired = _Loss.apply(  # type: ignore[misc]
        x, rows, decoder, k, center, bias, encoder, signed, keep_residual, codes
    )
    return ReconstructionLoss(loss, Codes(indices, values), residual, fired)


class _Loss(torch.autograd.Function):
    """Gradients are made in the forward pass, where the codes are at hand, and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor | None,
        decoder: Tensor,
        k: int,
        center: Tensor,
        bias: Tensor | None,
        encoder: Tensor | None,
        signed: bool,
        keep_residual: bool,
        codes: Codes | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        result = native.forward(x, rows, decoder, k, center, bias, encoder, signed, keep_residual, codes)
        ctx.gradients = (result.grad_decoder, result.grad_center, result.grad_bias, result.grad_encoder)
        ctx.set_materialize_grads(False)  # no zeros for the outputs that have no gradient
        ctx.mark_non_differentiable(*(t for t in result[1:5] if t is not None))
        loss = torch.tensor(result.loss, dtype=torch.float32, device="cpu")
        return loss, result.indices, result.codes, result.residual, result.fired

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        if scale is None:
            return (None,) * 10
        if ctx.gradients is None:
            raise ExpanderSaeError(
                "expected one backward through a reconstruction loss; got a second. Compute the loss again."
            )
        decoder, center, bias, encoder = (None if g is None else g.mul_(scale) for g in ctx.gradients)
        ctx.gradients = None  # scaled in place: a second backward would be a wrong number
        return None, None, decoder, None, center, bias, encoder, None, None, None
