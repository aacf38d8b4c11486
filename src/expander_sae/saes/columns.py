"""Unit-norm columns by parametrisation: W = V / ||V|| per column, the gradient flows through the norm."""

from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.ops import unit_columns

TOLERANCE = 1e-6
"""How far from 1 a length may be for a stored column to count as one of unit length."""


class UnitColumns(nn.Module):
    """A learned matrix V [n_latents, degree] read with its columns scaled to unit length (a row here is one column)."""

    _stored_as_unit = False
    """Columns of unit length came from a file: while they stay so, they are read as they are, to the last bit."""

    @torch.inference_mode(False)  # tensors of inference mode could never be trained
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(values.clone())
        self._kept: _Kept | None = None

    @classmethod
    @torch.inference_mode(False)
    def blank(cls, n_latents: int, degree: int) -> "UnitColumns":
        """Columns that a loader is about to fill; until then no memory is touched."""
        columns = cls(torch.empty(0, 0, dtype=torch.float32, device="cpu"))
        columns.raw = nn.Parameter(torch.empty(n_latents, degree, dtype=torch.float32, device="cpu"))
        return columns

    def take(self, values: Tensor) -> None:
        """Use values [n_latents, degree] without a copy; those of unit length already are not scaled again."""
        self.raw.data = values
        self._stored_as_unit = bool(((values.norm(dim=1) - 1).abs() <= TOLERANCE).all())
        self._kept = _Kept.of(self.raw, values) if self._stored_as_unit else None

    def forward(self) -> Tensor:
        """V / max(||V||, 1e-8) [n_latents, degree].

        In eval mode without gradients the result is kept until V changes. Otherwise it never is: a step of the
        optimiser lies between two such reads.
        """
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return self._columns()
        kept = self._kept
        if kept is None or not kept.is_of(self.raw):
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = _Kept.of(self.raw, self._columns())
        return kept.columns

    def _columns(self) -> Tensor:
        unit = unit_columns(self.raw)
        if self.training or not self._stored_as_unit or unit.dtype != torch.float32:
            return unit
        left = (self.raw - unit).detach()
        if bool(left.abs().max() <= 2 * TOLERANCE):
            # Exactly V, since numbers this close have an exact difference, with the gradient of the unit columns.
            return unit + left
        return unit

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}


class _Kept:
    """Unit columns, and all that tells whether they are still those of a parameter."""

    def __init__(self, raw: nn.Parameter, columns: Tensor, version: int | None) -> None:
        self.raw, self.columns, self.version = raw, columns, version
        self.storage = raw.detach()
        """Held, so that no other array can take its address."""
        self.sum = _sum_of_bits(raw)

    @classmethod
    def of(cls, raw: nn.Parameter, columns: Tensor) -> "_Kept":
        """The columns of a parameter as it is now."""
        return cls(raw, columns, version_of(raw))

    def is_of(self, raw: nn.Parameter) -> bool:
        """The same parameter (`load_state_dict(assign=True)` puts another in its place) on the same memory (`.to`
        and `.data = ` move it), not written to since.

        The version misses what writes through `.data` or a fused optimiser, so the numbers are summed as well.
        """
        same_memory = self.storage.data_ptr() == raw.data_ptr() and self.storage.dtype == raw.dtype
        same = raw is self.raw and same_memory and version_of(raw) == self.version
        return same and _sum_of_bits(raw) == self.sum


def version_of(tensor: Tensor) -> int | None:
    """How often autograd saw it written to; tensors made in inference mode do not count."""
    return None if tensor.is_inference() else tensor._version


def _sum_of_bits(tensor: Tensor) -> int:
    """The numbers' bits summed as integers, exact in any order: any one number that changes changes it."""
    flat = tensor.detach().contiguous().view(-1)
    if tensor.dtype != torch.float32:
        return int(flat.view({8: torch.int64, 2: torch.int16}[tensor.element_size()]).sum())
    flat = flat.clone() if flat.storage_offset() % 2 else flat
    even = flat.numel() // 2 * 2  # in pairs that takes a fifth of the time
    return int(flat[:even].view(torch.int64).sum()) + sum(flat[even:].view(torch.int32).tolist())


def random_columns(n_latents: int, degree: int, seed: int) -> UnitColumns:
    """Gaussian columns of about unit length."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randn(n_latents, degree, generator=generator, dtype=torch.float32, device="cpu")
    return UnitColumns(drawn / degree**0.5)
