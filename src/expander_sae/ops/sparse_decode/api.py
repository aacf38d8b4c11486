"""Decode: a sum of k sparse columns per token."""

from typing import Any

import torch
from torch import Tensor

from expander_sae.ops.autograd import differentiable_once, first_order, op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import check_code_indices, check_dictionary, check_finite, check_overflow, check_tensor
from expander_sae.ops.codes import Codes
from expander_sae.ops.sparse_decode import native, reference, triton


@op
def sparse_decode(codes: Codes, rows: Tensor | None, values: Tensor, d_in: int, *, backend: str = "auto") -> Tensor:
    """The reconstruction of every token from its codes, in O(k * degree) per token.

    `x_hat[b, rows[j, e]] += codes.values[b, i] * values[j, e]` for every slot i with `j = codes.indices[b, i]`.
    Differentiable once in the code values and in `values`, as `encode_topk` is.

    Args:
        codes: indices int64 [batch, k] and values [batch, k].
        rows: mask [n_latents, degree], any integer type; None for a dense dictionary.
        values: dictionary values [n_latents, degree] (dense: [n_latents, d_in]).
        d_in: length of an activation.
        backend: "auto", "native", "triton" or "reference".

    Returns:
        x_hat [batch, d_in], without any b_dec.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, an index points outside the dictionary, or the named backend
            cannot run.

    Example:
        >>> import torch
        >>> rows, values = torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2)
        >>> sparse_decode(Codes(torch.tensor([[1, 0]]), torch.tensor([[3.0, 1.0]])), rows, values, 3)
        tensor([[1., 4., 3.]])
    """
    indices, code_values = codes
    if torch.compiler.is_compiling():  # `ops.operators` says how it comes back here
        return torch.ops.expander_sae.sparse_decode(indices, code_values, rows, values, d_in)
    check_tensor("codes.indices", indices, "[batch, k]", (None, None), (torch.int64,))
    floats = (torch.float32, torch.float64)
    check_tensor("codes.values", code_values, "[batch, k]", tuple(indices.shape), floats)
    check_dictionary(rows, values, d_in)
    name = choose_backend(
        backend,
        code_values.device,
        native=native.supports(code_values, values, d_in),
        triton=triton.supports(code_values, rows, values, d_in),
    )
    if name != "native":
        check_code_indices(indices, values.shape[0])
        check_finite("codes", code_values.detach())
        check_finite("values", values.detach())
    if name == "reference":
        out = differentiable_once(reference.forward, indices, code_values, rows, values, d_in)
        check_overflow(out.detach(), "the reconstruction")
        return out
    return _SparseDecode.apply(indices, code_values, rows, values, d_in, name)  # type: ignore[return-value]


def _backend(name: str) -> Any:
    return triton if name == "triton" else native


class _SparseDecode(torch.autograd.Function):
    """One Function for all backends."""

    @staticmethod
    def forward(
        ctx: Any, indices: Tensor, codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int, backend: str
    ) -> Tensor:
        ctx.save_for_backward(indices, codes, rows, values)
        ctx.backend = backend
        return _backend(backend).forward(indices, codes, rows, values, d_in)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indices, codes, rows, values = ctx.saved_tensors
        _, needs_codes, _, needs_values, *_ = ctx.needs_input_grad
        grad_codes, grad_values = _backend(ctx.backend).backward(
            gradients[0], indices, codes, rows, values, needs_codes, needs_values
        )
        return None, grad_codes, None, grad_values, None, None
