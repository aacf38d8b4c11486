"""unit_columns on the C++ core (CPU): torch's own norm over seven numbers a row is ten times slower."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core

FLOOR = 1e-8


def supports(raw: Tensor) -> str | None:
    """Why the C++ core cannot take this call, or None if it can."""
    return None if raw.dtype == torch.float32 else "the C++ core computes in float32; other types run on the reference"


def forward(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Unit columns [n_latents, degree] and their former lengths [n_latents]."""
    unit = torch.empty(raw.shape, dtype=torch.float32, device="cpu")
    norm = torch.empty(raw.shape[0], dtype=torch.float32, device="cpu")
    core.call("unit_columns", core.plain(raw), FLOOR, torch.get_num_threads(), unit, norm)
    return unit, norm


def backward(gradient: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """Gradient in raw."""
    out = torch.empty(unit.shape, dtype=torch.float32, device="cpu")
    core.call("unit_columns_backward", core.plain(gradient), unit, norm, torch.get_num_threads(), out)
    return out
