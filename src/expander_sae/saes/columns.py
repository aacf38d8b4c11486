"""Unit-norm columns by parametrisation: W = V / ||V|| per column, the gradient flows through the norm."""

import torch
from torch import Tensor, nn

from expander_sae.ops import unit_columns


class UnitColumns(nn.Module):
    """A learned matrix V [n_latents, degree] read with its columns scaled to unit length (a row here is one column)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(values.clone())
        self._kept: _Kept | None = None

    @classmethod
    def blank(cls, n_latents: int, degree: int) -> "UnitColumns":
        """Columns that a loader is about to fill; until then no memory is touched."""
        columns = cls(torch.empty(0, 0))
        columns.raw = nn.Parameter(torch.empty(n_latents, degree))
        return columns

    def take(self, values: Tensor) -> None:
        """Use values [n_latents, degree] without a copy; those of unit length already are not scaled again."""
        self.raw.data = values
        is_unit = bool(((values.norm(dim=1) - 1).abs() <= 1e-6).all())
        self._kept = _Kept(self.raw, values) if is_unit else None

    def forward(self) -> Tensor:
        """V / max(||V||, 1e-8) [n_latents, degree].

        In eval mode the result is kept until V changes. While training it never is: torch's fused optimisers change a
        parameter without raising its version, so a kept result could be a step old.
        """
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return unit_columns(self.raw)
        if self._kept is None or not self._kept.is_of(self.raw):
            self._kept = _Kept(self.raw, unit_columns(self.raw))
        return self._kept.columns


class _Kept:
    """Unit columns, and all that tells whether they are still those of a parameter."""

    def __init__(self, raw: nn.Parameter, columns: Tensor) -> None:
        self.raw, self.version, self.columns = raw, raw._version, columns
        self.storage = raw.detach()
        """Held, so that no other array can take its address."""

    def is_of(self, raw: nn.Parameter) -> bool:
        """The same parameter (`load_state_dict(assign=True)` puts another in its place) on the same memory (`.to`
        and `.data = ` move it), not written to since."""
        same_memory = self.storage.data_ptr() == raw.data_ptr() and self.storage.dtype == raw.dtype
        return raw is self.raw and same_memory and raw._version == self.version


def random_columns(n_latents: int, degree: int, seed: int) -> UnitColumns:
    """Gaussian columns of about unit length."""
    generator = torch.Generator().manual_seed(seed)
    return UnitColumns(torch.randn(n_latents, degree, generator=generator) / degree**0.5)
