"""Learned supports: entries of the dictionary move to the rows where the residual wants them.

The mask stays left-d-regular at every moment. For column j and a row i outside its support, adding the entry
`v = G_ij / S_j` to the column, with `G_ij = sum_b h_bj e_bi` (codes times residual) and `S_j = sum_b h_bj^2`, lowers
the squared error of the tokens b by `G_ij^2 / S_j`; removing entry w raises it by about `w^2 S_j` (at the optimum the
gradient in w is zero). So an entry moves where `|v| > |w|`. The sums are over all batches since the last move: a latent
fires a few times in a batch, and what so few tokens ask for is mostly noise, above all where the entries it would
replace are small.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.graphs import mask_from_rows
from expander_sae.ops import Codes, sparse_decode
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae
from expander_sae.saes.rows import rank_within

from .part import Found, Part, Step, Trained

MARGIN = 1.2
"""A move must promise this many times the value it gives up: noise otherwise moves entries back and forth."""

TOKENS_AT_ONCE = 4096
"""Tokens whose requests are summed in one go; their residuals, [tokens, d_in], are kept until then."""


@dataclass(frozen=True)
class MoveSupports:
    """When and how far entries of a dictionary move to other rows.

    Only those of Expander SAEs that encode by pursuit: learned supports crowd on strong coordinates, which one-shot
    TopK cannot disentangle. While they move, each SAE holds n_latents * d_in floats of what tokens ask for (134 MB at
    2048 x 16384) and residuals of up to 4,096 tokens.
    """

    every: int = 20
    """Steps between moves."""
    entries: int | None = None
    """Most entries of one column moved at a time; None: a quarter of them, two at least."""
    until: float = 0.85
    """Share of the steps after which the mask stays as it is, so that the values can settle."""
    row_cap: float | None = None
    """No row gets more columns than this many times the mean; None: no bound."""

    def __post_init__(self) -> None:
        if self.every < 1 or (self.entries or 1) < 1 or (self.row_cap or 1.0) < 1.0:
            raise ExpanderSaeError(
                "expected every >= 1, entries >= 1 (or none) and row_cap >= 1 (or none) in MoveSupports; got "
                f"{self.every}, {self.entries}, {self.row_cap}. move_supports=None leaves the mask as it is."
            )


class MoveSupportsPart(Part):
    """Sums what tokens ask for, and moves entries every so many steps."""

    def __init__(self, config: MoveSupports, trained: Trained) -> None:
        assert isinstance(trained.sae, ExpanderSae)
        self.config, self.sae, self.optimizer, self.ranks = config, trained.sae, trained.optimizer, trained.ranks
        self.until = config.until * trained.steps
        self.moved = 0
        self.requests = Requests(self.sae.n_latents, self.sae.d_in, self.sae.b_dec.device) if self._learns(0) else None

    @staticmethod
    def can_move(sae: AbstractSae) -> bool:
        """Whether an SAE's entries may move. An encoder of its own would have to move with the dictionary: teach it
        once the rows are settled."""
        return isinstance(sae, ExpanderSae) and sae.reading.least_squares and sae.tied

    def moves_in(self, number: int) -> bool:
        """Whether entries move at the end of this step, 0-based."""
        return self._learns(number) and (number + 1) % self.config.every == 0

    def _learns(self, number: int) -> bool:
        return number < self.until

    def wants_residual(self, step: Step) -> bool:
        """While entries move."""
        return self._learns(step.number)

    def after_step(self, step: Step, found: Found) -> None:
        """Add what this batch asks for, and move entries where that is due."""
        if not self._learns(step.number):
            self.requests = None  # no more moves: what was asked since the last one need not be kept
            return
        assert found.residual is not None
        assert self.requests is not None
        self.requests.add(found.codes, found.residual)
        if self.moves_in(step.number):
            self.requests.add_up(self.ranks)
            entries = max(2, self.sae.degree // 4) if self.config.entries is None else self.config.entries
            moves = plan_moves(self.sae, self.requests, entries, self.config.row_cap)
            self.moved += apply_moves(self.sae, moves, self.optimizer)
            self.requests.clear()

    def logged(self) -> dict[str, float]:
        """Entries moved so far, where there are any."""
        return {"moved_entries": self.moved} if self.moved else {}

    def state_dict(self) -> dict[str, Any]:
        """What was asked since the last move, and how many entries have moved.

        Over several ranks every one of them calls this at the same step, and the first has what is asked of all.
        """
        if self.requests is not None and not self.ranks.alone:
            self.requests.add_up(self.ranks)
            if not self.ranks.first:
                self.requests.clear()  # the first has it from here on
        return {"moved": self.moved, "requests": None if self.requests is None else self.requests.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.moved = state["moved"]
        if state["requests"] is None:
            self.requests = None
        elif self.requests is not None:
            self.requests.load_state_dict(state["requests"])
            if not self.ranks.first:
                self.requests.clear()


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

    def add_up(self, ranks: Ranks = ALONE) -> None:
        """Have what is asked of all ranks together."""
        if not ranks.alone:
            for total in self.sums():
                ranks.add_up(total)

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
    keep = (rank_within(left) < (degrees - 1)[left]) | ~present[moves.latents, moves.slots]
    if row_cap is not None:
        bound = int(row_cap * flat.numel() / sae.d_in)
        keep &= rank_within(moves.rows) < (bound - degrees)[moves.rows]
    return Moves(*(part[keep] for part in moves))


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
