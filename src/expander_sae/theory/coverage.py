"""Uniqueness of single codes from the mask alone."""

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError

_ENTRIES = 1 << 20  # numbers in the largest temporary array


def unique_by_coverage(codes: Codes, rows: Tensor, *, d_in: int) -> Tensor:
    """Whether the mask alone makes almost every code on each support unique, bool [batch]. O(n_latents degree) each.

    S peels to nothing (so W_S is injective whatever its values) and no other column has all its rows in N(S)
    (so none is in span W_S).

    Raises:
        ExpanderSaeError: an index outside the mask.

    Source: dimension count: a second support's codes fill a proper subspace of R^S
    (docs/concepts/what-is-guaranteed.md).

    Example:
        >>> codes = Codes(torch.tensor([[0]]), torch.ones(1, 1))
        >>> unique_by_coverage(codes, torch.tensor([[0, 1], [1, 2]]), d_in=3).tolist()
        [True]
    """
    rows = rows.long()
    if codes.indices.numel() and not 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < len(rows):
        raise ExpanderSaeError(f"expected code indices in [0, {len(rows)}); got others.")
    step = max(1, _ENTRIES // rows.numel())
    parts = [
        _unique(codes.indices[at : at + step], codes.values[at : at + step] != 0, rows, d_in)
        for at in range(0, len(codes.indices), step)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool, device=rows.device)


def _unique(indices: Tensor, active: Tensor, rows: Tensor, d_in: int) -> Tensor:
    chosen = rows[indices]
    covered = _times(chosen, active, d_in) > 0
    free = ~covered[:, rows].all(dim=2)
    # Latents of S are not asked about; unused slots write to a column that is cut off.
    free = torch.cat([free, free[:, :1]], dim=1)
    free.scatter_(1, torch.where(active, indices, len(rows)), True)
    left = active
    while True:  # every round removes a column of some token, so this ends
        times = _times(chosen, left, d_in)
        alone = (times.gather(1, chosen.flatten(1)) == 1).view_as(chosen).any(dim=2)
        if not (left & alone).any():
            return free[:, :-1].all(dim=1) & ~left.any(dim=1)
        left = left & ~alone


def _times(chosen: Tensor, active: Tensor, d_in: int) -> Tensor:
    """How many active columns use each row, int64 [batch, d_in]."""
    weight = active[:, :, None].expand_as(chosen).flatten(1).long()
    out = torch.zeros(len(chosen), d_in, dtype=torch.long, device=chosen.device)
    return out.scatter_add_(1, chosen.flatten(1), weight)
