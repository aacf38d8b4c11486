"""Unit-norm columns by parametrisation: W = V / ||V|| per column, the gradient flows through the norm."""

import torch
from torch import Tensor, nn

from expander_sae.ops import unit_columns


class UnitColumns(nn.Module):
    """A learned matrix V [n_latents, degree] read with its columns scaled to unit length (a row here is one column)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(values.clone())
        self._cached: tuple[int, Tensor] | None = None

    def forward(self) -> Tensor:
        """V / max(||V||, 1e-8) [n_latents, degree].

        In eval mode the result is kept until V changes. While training it never is: torch's fused optimisers change a
        parameter without raising its version, so a kept result could be a step old.
        """
        if self.training or torch.is_grad_enabled():
            self._cached = None
            return unit_columns(self.raw)
        if self._cached is None or self._cached[0] != self.raw._version or self._cached[1].device != self.raw.device:
            self._cached = (self.raw._version, unit_columns(self.raw))
        return self._cached[1]
