"""What pursuit and certificates read of a sparse dictionary: all correlations, and the Gram entries of a support."""

import torch
from torch import Tensor

from expander_sae.ops.autograd import op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import (
    FLOATS,
    check_code_indices,
    check_dictionary,
    check_numbers,
    check_overflow,
    check_tensor,
)
from expander_sae.ops.correlate import native, reference
from expander_sae.ops.encode_topk import native as limits

_NO_TRITON = "there is no Triton kernel for it yet"


@op
@torch.no_grad()
def correlate(x: Tensor, rows: Tensor, values: Tensor, *, backend: str = "auto") -> Tensor:
    """All correlations `W^T x` of activations x [batch, d_in], float32 [batch, n_latents]; not differentiable.

    This is the one op whose result has n_latents numbers per token: use `encode_topk` where the largest ones will do.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, or NaN or infinity in x or values.

    Example:
        >>> import torch
        >>> correlate(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2))
        tensor([[3., 6.]])
    """
    check_tensor("x", x, "[batch, d_in]", (None, None), FLOATS)
    check_dictionary(rows, values, x.shape[1])
    reason = limits.supports(x, rows, values)
    if choose_backend(backend, x.device, native=reason, triton=_NO_TRITON) == "native":
        return native.correlate(x, rows, values)
    check_numbers(x, rows, values)
    out = reference.correlate(x, rows, values)
    check_overflow(out, "a correlation")
    return out


@op
@torch.no_grad()
def support_gram(indices: Tensor, rows: Tensor, values: Tensor, d_in: int, *, backend: str = "auto") -> Tensor:
    """Gram matrices `W_S^T W_S` of supports S = indices [batch, k], [batch, k, k]; not differentiable.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, or an index points outside the dictionary.

    Example:
        >>> import torch
        >>> support_gram(torch.tensor([[0, 1]]), torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2), 3)
        tensor([[[2., 1.],
                 [1., 2.]]])
    """
    check_tensor("indices", indices, "[batch, k]", (None, None), (torch.int64,))
    check_dictionary(rows, values, d_in)
    reason = limits.supports(values, rows, values) if d_in <= 65536 else "rows are 16-bit in the C++ core"
    if choose_backend(backend, values.device, native=reason, triton=_NO_TRITON) == "native":
        return native.support_gram(indices, rows, values, d_in)
    check_code_indices(indices, values.shape[0])
    return reference.support_gram(indices, rows, values, d_in)
