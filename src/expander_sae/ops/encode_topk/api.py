"""Encode: correlate with every column of a sparse dictionary and keep the k largest."""

from typing import Any

import torch
from torch import Tensor

from expander_sae.ops.autograd import differentiable_once, first_order, op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import FLOATS, check_dictionary, check_numbers, check_overflow, check_tensor
from expander_sae.ops.codes import Codes
from expander_sae.ops.encode_topk import native, reference, triton
from expander_sae.records import ExpanderSaeError


@op
def encode_topk(
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    center: Tensor | None = None,
    signed: bool = False,
    backend: str = "auto",
) -> Codes:
    """The k largest pre-activations of every token, without ever holding [batch, n_latents].

    `pre[b, j] = sum_e values[j, e] * (x - center)[b, rows[j, e]] + bias[j]`; a ReLU unless `signed`; then TopK by
    value, ties to the lower latent. With a ReLU, a token with fewer than k positive pre-activations gets zero codes on
    the lowest free latents. Differentiable once in x, values, bias and center; zero codes pass no gradient unless
    `signed`. A backward with `create_graph=True` is refused, on every backend, as are `torch.func` transforms.

    Args:
        x: activations [batch, d_in]; float32, bfloat16, float16 (summed in float32) or float64 (reference).
        rows: mask [n_latents, degree], any integer type, distinct in a column; None for a dense dictionary
            (then values is [n_latents, d_in]).
        values: dictionary values [n_latents, degree].
        k: active latents per token, 1..n_latents.
        bias: latent bias [n_latents].
        center: subtracted from x first [d_in].
        signed: keep the k largest signed values without a ReLU, as arXiv 2607.01799 does.
        backend: "auto", "native" (C++, CPU), "triton" (CUDA) or "reference".

    Returns:
        Codes with indices int64 [batch, k] and values [batch, k].

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, k is out of range, x or values hold NaN or infinity, a row index
            is not below d_in, or the named backend cannot run.

    Example:
        >>> import torch
        >>> rows, values = torch.tensor([[0, 1], [1, 2], [0, 2]]), torch.ones(3, 2)
        >>> encode_topk(torch.tensor([[1.0, 2.0, 4.0]]), rows, values, 2)
        Codes(indices=tensor([[1, 2]]), values=tensor([[6., 5.]]))
    """
    if torch.compiler.is_compiling():  # `ops.operators` says how it comes back here
        codes, indices = torch.ops.expander_sae.encode_topk(x, rows, values, k, bias, center, signed)
        return Codes(indices, codes)
    check_tensor("x", x, "[batch, d_in]", (None, None), FLOATS)
    d_in = x.shape[1]
    check_dictionary(rows, values, d_in)
    n_latents = values.shape[0]
    if not 1 <= k <= n_latents:
        raise ExpanderSaeError(f"expected k in 1..n_latents = {n_latents}; got {k}")
    if bias is not None:
        check_tensor("bias", bias, "[n_latents]", (n_latents,), (torch.float32, torch.float64))
    if center is not None:
        check_tensor("center", center, "[d_in]", (d_in,), (torch.float32, torch.float64))
    name = choose_backend(
        backend, x.device, native=native.supports(x, rows, values), triton=triton.supports(x, rows, values, k)
    )
    if name != "native":
        check_numbers(x, rows, values, bias=bias, center=center)
    if name == "reference":
        indices, codes = differentiable_once(reference.forward, x, rows, values, k, bias, center, signed)
        check_overflow(codes.detach(), "a pre-activation")
        return Codes(indices, codes)
    indices, codes = _EncodeTopK.apply(x, rows, values, k, bias, center, signed, name)  # type: ignore[misc]
    return Codes(indices, codes)


def _backend(name: str) -> Any:
    return triton if name == "triton" else native


class _EncodeTopK(torch.autograd.Function):
    """One Function for all backends: gradients flow through the selected pre-activations only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor,
        values: Tensor,
        k: int,
        bias: Tensor | None,
        center: Tensor | None,
        signed: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        indices, codes = _backend(backend).forward(x, rows, values, k, bias, center, signed)
        ctx.save_for_backward(x, rows, values, center, indices, codes)
        ctx.signed, ctx.backend, ctx.has_bias = signed, backend, bias is not None
        ctx.mark_non_differentiable(indices)
        return indices, codes

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, values, center, indices, codes = ctx.saved_tensors
        grad_codes = gradients[1]
        if not ctx.signed:
            grad_codes = torch.where(codes > 0, grad_codes, 0.0)
        needs_x, _, needs_values, _, needs_bias, needs_center, *_ = ctx.needs_input_grad
        grad_x, grad_values, grad_bias = _backend(ctx.backend).backward(
            grad_codes, indices, x, rows, values, center, needs_x or needs_center, needs_values, needs_bias
        )
        grad_center = -grad_x.sum(0) if needs_center else None
        if grad_x is not None:
            grad_x = grad_x.to(x.dtype) if needs_x else None
        return grad_x, None, grad_values, None, grad_bias, grad_center, None, None
