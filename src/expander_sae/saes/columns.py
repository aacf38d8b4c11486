"""Unit-norm columns by parametrisation: W = V / ||V|| per column, the gradient flows through the norm."""

import torch
from torch import Tensor, nn

FLOOR = 1e-8


class UnitColumns(nn.Module):
    """A learned matrix V [n_latents, degree] read as its rows scaled to unit length (a row here is a dictionary
    column)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(values.clone())
        self._cached: tuple[int, Tensor] | None = None

    def forward(self) -> Tensor:
        """V / max(||V||, 1e-8) [n_latents, degree]; remembered between calls while nothing is learned."""
        if torch.is_grad_enabled() and self.raw.requires_grad:
            return _UnitColumns.apply(self.raw)  # type: ignore[return-value]
        version = self.raw._version
        if self._cached is None or self._cached[0] != version or self._cached[1].device != self.raw.device:
            with torch.no_grad():
                self._cached = (version, self.raw / self.raw.norm(dim=1, keepdim=True).clamp_min(FLOOR))
        return self._cached[1]


class _UnitColumns(torch.autograd.Function):
    """d/dV (V/||V||) . g = (g - (g . w) w) / ||V||, with fewer passes over memory than autograd takes."""

    @staticmethod
    def forward(ctx, raw: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        norm = raw.norm(dim=1, keepdim=True).clamp_min_(FLOOR)
        unit = raw / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        unit, norm = ctx.saved_tensors
        gradient = gradients[0]
        along = torch.einsum("nd,nd->n", gradient, unit)[:, None]
        return torch.addcmul(gradient, along, unit, value=-1.0).div_(norm)
