"""Columns of different degrees: entries go to the columns whose codes need them."""

from typing import Any

import torch
from torch import Tensor

from expander_sae.saes import IrregularSae

from .move_supports import MoveSupportsPart
from .part import Found, Part, Step, Trained

_NEW = 0.05
"""Weight of a batch in the running mean of the codes' energy."""


class IrregularPart(Part):
    """Of an irregular SAE: empty slots stay empty between moves, and every move ends with `entries` of them."""

    def __init__(self, trained: Trained, moves: MoveSupportsPart | None) -> None:
        assert isinstance(trained.sae, IrregularSae)
        self.sae, self.optimizer, self.moves, self.ranks = trained.sae, trained.optimizer, moves, trained.ranks
        self.energy = torch.ones(self.sae.n_latents, device=self.sae.b_dec.device, dtype=torch.float32)
        """Of the codes of recent batches, by latent."""

    def after_backward(self) -> None:
        """No gradient for empty slots."""
        gradient = self.sae.columns.raw.grad
        assert gradient is not None
        gradient.mul_(self.sae.present())

    def after_step(self, step: Step, found: Found) -> None:
        """Follow the energy of the codes; where entries have just moved, keep those that matter most."""
        squares = found.codes.values.detach().square().reshape(-1)
        now = torch.zeros_like(self.energy).index_add_(0, found.codes.indices.reshape(-1), squares)
        self.energy.lerp_(self.ranks.total(now), _NEW)
        if self.moves is not None and self.moves.moves_in(step.number):
            keep_entries(self.sae, self.energy, self.optimizer, self.sae.entries)

    def state_dict(self) -> dict[str, Any]:
        """The energy."""
        return {"energy": self.energy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the energy back."""
        self.energy.copy_(state["energy"])


@torch.no_grad()
def keep_entries(
    sae: IrregularSae, energy: Tensor, optimizer: torch.optim.Optimizer, entries: int, most: int | None = None
) -> int:
    """Drop the entries that matter least until `entries` are left, moments too; returns how many were dropped.

    Dropping entry w_ij of a unit column raises the squared error by about `w_ij^2 S_j` with S_j the energy of the
    column's codes, so that is the order; every column keeps half the mean degree (at least one entry), every row one.

    Args:
        sae: changed in place.
        energy: S [n_latents], of recent codes, in any unit.
        optimizer: Adam over its parameters.
        entries: to keep, of all columns.
        most: to keep of one column; None: as many as it has slots.
    """
    raw = sae.columns.raw
    worth = sae.values.square() * energy.clamp_min(1e-6 * float(energy.mean()))[:, None]
    present = sae.present()
    if most is not None and most < sae.degree:
        best = worth.topk(most, dim=1).indices
        worth = torch.full_like(worth, -1.0).scatter_(1, best, worth.gather(1, best))
    fewest = max(1, entries // sae.n_latents // 2)
    worth.scatter_(1, worth.topk(fewest, dim=1).indices, torch.inf)
    rows = sae.rows.long().reshape(-1)
    largest = worth.new_zeros(sae.d_in).scatter_reduce_(0, rows, worth.reshape(-1), "amax")
    last = (worth == largest[rows].view_as(worth)) & worth.isfinite()
    worth[last] = torch.finfo(worth.dtype).max  # after the columns' own
    worth[~present] = -1.0
    kept = torch.zeros_like(present)
    kept.view(-1)[worth.view(-1).topk(min(entries, int((worth >= 0).sum()))).indices] = True
    dropped = int((present & ~kept).sum())
    state = optimizer.state[raw]
    for tensor in (raw, *(state[name] for name in ("exp_avg", "exp_avg_sq") if name in state)):
        tensor.mul_(kept)
    return dropped
