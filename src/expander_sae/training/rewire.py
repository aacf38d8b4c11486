"""Learned supports: entries of the dictionary move to the rows where the residual wants them.

The mask stays left-d-regular at every moment. For column j and a row i outside its support, adding the entry
`v = G_ij / S_j` to the column, with `G_ij = sum_b h_bj e_bi` (codes times residual) and `S_j = sum_b h_bj^2`, lowers
the squared error of the tokens b by `G_ij^2 / S_j`; removing entry w raises it by about `w^2 S_j` (at the optimum the
gradient in w is zero). So an entry moves where `|v| > |w|`. The sums are over all batches since the last move: a latent
fires a few times in a batch, and what so few tokens ask for is mostly noise, above all where the entries it would
replace are small.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.graphs import mask_from_rows
from expander_sae.ops import Codes, sparse_decode
from expander_sae.saes import ExpanderSae, IrregularSae

MARGIN = 1.2
"""A move must promise this many times the value it gives up: noise otherwise moves entries back and forth."""

TOKENS_AT_ONCE = 4096
"""Tokens whose requests are summed in one go; their residuals, [tokens, d_in], are kept until then."""


class Moves(NamedTuple):
    """Which entries move where: column, slot in the column, new row, new value; all [moves]."""

    latents: Tensor
    slots: Tensor
    rows: Tensor
    values: Tensor


class Requests:
    """What the tokens since the last move ask of every entry of a dictionary.

    Batches wait until there are `TOKENS_AT_ONCE` of them: one sum over many tokens passes over the dictionary once.
    """

    def __init__(self, n_latents: int, d_in: int, device: torch.device) -> None:
        self._wanted = torch.zeros(n_latents, d_in, device=device, dtype=torch.float32)
        self._energy = torch.zeros(n_latents, device=device, dtype=torch.float32)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, codes: Codes, residual: Tensor) -> None:
        """Count a batch: codes [batch, k], residual x - x_hat [batch, d_in]."""
        self._waiting.append((codes.indices, codes.values.detach(), residual))
        if sum(len(indices) for indices, _, _ in self._waiting) >= TOKENS_AT_ONCE:
            self._settle()

    def sums(self) -> tuple[Tensor, Tensor]:
        """G [n_latents, d_in], codes times residual, and S [n_latents], squares of the codes."""
        self._settle()
        return self._wanted, self._energy

    def clear(self) -> None:
        """Forget what was asked."""
        self._wanted.zero_()
        self._energy.zero_()
        self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Both sums and the batches that wait: summing them now would round otherwise than summing them later."""
        return {"wanted": self._wanted, "energy": self._energy, "waiting": list(self._waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._wanted.copy_(state["wanted"])
        self._energy.copy_(state["energy"])
        device = self._wanted.device
        self._waiting = [(i.to(device), v.to(device), r.to(device)) for i, v, r in state["waiting"]]

    @torch.no_grad()
    def _settle(self) -> None:
        if not self._waiting:
            return
        indices, values, residual = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._wanted += _gradient_everywhere(Codes(indices, values), residual, len(self._energy))
        self._energy.index_add_(0, indices.reshape(-1), values.reshape(-1).square())


@torch.no_grad()
def plan_moves(sae: ExpanderSae, requests: Requests, entries: int, row_cap: float | None) -> Moves:
    """The moves that were asked for: at most `entries` per column, no row above `row_cap` times the mean, none emptied.

    Args:
        sae: its values are read in unit-norm form.
        requests: of the tokens since the last move.
        entries: most moves per column.
        row_cap: bound on right degrees, as a multiple of the mean; None: no bound.
    """
    rows, values = sae.rows.long(), sae.values
    entries = min(entries, sae.degree, sae.d_in - sae.degree)
    if entries < 1:
        empty = values.new_empty(0, dtype=torch.int64)
        return Moves(empty, empty, empty, values.new_empty(0))
    wanted, energy = requests.sums()
    wanted = wanted.scatter(1, rows, 0.0)
    gain = wanted.abs().topk(entries, dim=1)
    new = wanted.gather(1, gain.indices) / energy.clamp_min(1e-30)[:, None]
    old = values.abs().topk(entries, dim=1, largest=False)
    # Largest newcomers meet the smallest residents: the first of each, then the second, ...
    better = (new.abs() > MARGIN * old.values) & (energy > 0)[:, None]
    latents, order = better.nonzero(as_tuple=True)
    moves = Moves(latents, old.indices[latents, order], gain.indices[latents, order], new[latents, order])
    worth = (moves.values.square() - values[moves.latents, moves.slots].square()) * energy[latents]
    return _within_row_bounds(sae, moves, worth, row_cap)


def _gradient_everywhere(codes: Codes, residual: Tensor, n_latents: int) -> Tensor:
    """G [n_latents, d_in]: what decoding would pass back to a dense dictionary, codes times residual over tokens."""
    with torch.enable_grad():
        dictionary = residual.new_zeros(n_latents, residual.shape[1], requires_grad=True)
        sparse_decode(codes, None, dictionary, residual.shape[1]).backward(residual)
    assert dictionary.grad is not None
    return dictionary.grad


def _within_row_bounds(sae: ExpanderSae, moves: Moves, worth: Tensor, row_cap: float | None) -> Moves:
    """Keep the most worthwhile moves that leave every row with at least one column and at most the bound."""
    order = worth.sort(descending=True, stable=True).indices
    moves = Moves(*(part[order] for part in moves))
    present = sae.columns.raw != 0  # all of them, unless degrees are irregular
    flat = sae.rows.long()[present]
    degrees = torch.bincount(flat, minlength=sae.d_in)
    left = sae.rows.long()[moves.latents, moves.slots]
    keep = (_rank_within(left) < (degrees - 1)[left]) | ~present[moves.latents, moves.slots]
    if row_cap is not None:
        bound = int(row_cap * flat.numel() / sae.d_in)
        keep &= _rank_within(moves.rows) < (bound - degrees)[moves.rows]
    return Moves(*(part[keep] for part in moves))


def _rank_within(groups: Tensor) -> Tensor:
    """How many earlier elements share each element's group."""
    order = groups.sort(stable=True).indices
    ordered = groups[order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    position = torch.arange(len(groups), device=groups.device)
    first = torch.where(starts, position, 0).cummax(0).values if len(groups) else position
    return torch.empty_like(position).scatter_(0, order, position - first)


@torch.no_grad()
def apply_moves(sae: ExpanderSae, moves: Moves, optimizer: torch.optim.Optimizer) -> int:
    """Move the entries, with their optimiser moments reset, and give the SAE its new mask; returns how many moved.

    A moved entry starts at half the value that was asked for, which overshoots on other tokens.
    """
    if not len(moves.latents):
        return 0
    raw, rows = sae.columns.raw, sae.rows.long()
    norms = raw.norm(dim=1)
    rows[moves.latents, moves.slots] = moves.rows
    raw[moves.latents, moves.slots] = 0.5 * moves.values * norms[moves.latents]
    state = optimizer.state[raw]
    moments = [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]
    for moment in moments:
        moment[moves.latents, moves.slots] = 0.0
    order = rows.sort(dim=1).indices
    for tensor in (rows, raw, *moments):
        tensor.copy_(tensor.gather(1, order))
    sae.set_mask(mask_from_rows(rows.cpu().numpy(), d_in=sae.d_in))
    return len(moves.latents)


@torch.no_grad()
def keep_entries(sae: IrregularSae, energy: Tensor, optimizer: torch.optim.Optimizer) -> int:
    """Drop the entries that matter least until `sae.entries` are left, moments too; returns how many were dropped.

    Dropping entry w_ij of a unit column raises the squared error by about `w_ij^2 S_j` with S_j the energy of the
    column's codes, so that is the order; every column keeps half the mean degree (at least one entry), every row one.

    Args:
        sae: changed in place.
        energy: S [n_latents], of recent codes, in any unit.
        optimizer: Adam over its parameters.
    """
    raw = sae.columns.raw
    worth = sae.values.square() * energy.clamp_min(1e-6 * float(energy.mean()))[:, None]
    present = sae.present()
    fewest = max(1, sae.entries // sae.n_latents // 2)
    worth.scatter_(1, worth.topk(fewest, dim=1).indices, torch.inf)
    rows = sae.rows.long().reshape(-1)
    largest = worth.new_zeros(sae.d_in).scatter_reduce_(0, rows, worth.reshape(-1), "amax")
    last = (worth == largest[rows].view_as(worth)) & worth.isfinite()
    worth[last] = torch.finfo(worth.dtype).max  # after the columns' own
    worth[~present] = -1.0
    kept = torch.zeros_like(present)
    kept.view(-1)[worth.view(-1).topk(min(sae.entries, int(present.sum()))).indices] = True
    dropped = int((present & ~kept).sum())
    state = optimizer.state[raw]
    for tensor in (raw, *(state[name] for name in ("exp_avg", "exp_avg_sq") if name in state)):
        tensor.mul_(kept)
    return dropped
