"""Unit-length dictionary columns by parametrisation."""

from typing import Any

import torch
from torch import Tensor

from expander_sae.ops.autograd import differentiable_once, first_order, op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import check_tensor, shape_of
from expander_sae.ops.unit_columns import native, reference
from expander_sae.records import ExpanderSaeError


@op
def unit_columns(raw: Tensor, *, backend: str = "auto") -> Tensor:
    """Dictionary columns of unit length, `w_j = v_j / max(||v_j||, 1e-8)`; differentiable once, the norm included.

    Args:
        raw: v [n_latents, degree]; a row of the tensor is a column of the dictionary.
        backend: "auto", "native" or "reference".

    Raises:
        ExpanderSaeError: the shape or dtype does not fit, or the named backend cannot run.

    Example:
        >>> import torch
        >>> unit_columns(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    check_tensor("raw", raw, "[n_latents, degree]", (None, None), (torch.float32, torch.float64))
    if not raw.shape[1]:
        raise ExpanderSaeError(f"expected columns with at least one entry; got raw {shape_of(raw)}")
    no_triton = "plain PyTorch is as fast on a GPU"
    if choose_backend(backend, raw.device, native=native.supports(raw), triton=no_triton) == "reference":
        return differentiable_once(reference.forward, raw)
    return _UnitColumns.apply(raw)  # type: ignore[return-value]


class _UnitColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        unit, norm = native.forward(raw)
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        return native.backward(gradients[0], unit, norm)
