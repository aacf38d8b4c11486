"""A degree that falls while training: columns begin on many rows and keep those they use most.

A sparse column that starts on a few random rows cannot turn to where a concept is, and one-pass training does not move
its rows. One that starts on many finds its direction first, and gives up its smallest entries little by little.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae, IrregularSae
from expander_sae.saes.columns import random_columns

from .irregular import IrregularPart, keep_entries
from .part import Found, Part, Step, Trained


@dataclass(frozen=True)
class Anneal:
    """How the degree falls to the SAE's own, d, between the shares `since` and `until` of the steps of a pass:

        degree = d + (D - d) (1 - (share - since) / (until - since))^3

    with D = max(`start` * d_in, 2 d), at most d_in: fast while there is much to give up, slowly at the end. Before
    `since` columns find their directions on all their rows. Only tied Expander SAEs have it; the rows they begin on are
    those of a random mask of degree D. Where degrees are irregular, d is their mean, and entries go from whichever
    columns need them least.

    Source: the schedule is that of Zhu and Gupta, "To prune, or not to prune", 2017.
    """

    start: float = 1.0
    """Rows that columns begin on, as a share of d_in: on fewer they find less of where concepts are, and take less time
    and memory (n_latents * D values and their moments)."""
    since: float = 0.35
    """Share of the steps before which the degree is D."""
    until: float = 0.7
    """Share of the steps after which it is d."""
    every: int = 10
    """Steps between cuts."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1 or not 0 <= self.since < self.until <= 1 or self.every < 1:
            raise ExpanderSaeError(
                f"expected 0 < start <= 1, 0 <= since < until <= 1 and every >= 1 in Anneal; got {self.start}, "
                f"{self.since}, {self.until}, {self.every}. anneal=None keeps the degree."
            )

    def first_degree(self, d_in: int, degree: int) -> int:
        """D, for an SAE of this degree.

        Example:
            >>> Anneal().first_degree(576, 32), Anneal(start=1 / 3).first_degree(576, 32)
            (576, 192)
        """
        return min(d_in, max(round(self.start * d_in), 2 * degree))


class AnnealPart(Part):
    """Widens the SAE as training begins, and cuts its columns every so many steps."""

    def __init__(
        self,
        config: Anneal,
        trained: Trained,
        wide: ExpanderSae | None = None,
        irregular: IrregularPart | None = None,
    ) -> None:
        assert isinstance(trained.sae, ExpanderSae)
        self.config, self.sae, self.optimizer = config, trained.sae, trained.optimizer
        self.since, self.until = (share * trained.steps for share in (config.since, config.until))
        self.irregular, self.wide, self.begun = irregular, wide, False
        self.slots = self.sae.degree
        self.final = self.slots if irregular is None else irregular.sae.entries / self.sae.n_latents
        self.start = config.first_degree(self.sae.d_in, round(self.final)) if wide is None else wide.degree

    def begin(self) -> None:
        """Widen the SAE, unless its degree is falling already."""
        if self.begun:
            return
        self.begun = True
        if self.wide is None:
            widen(self.sae, self.start)
        else:
            self.sae.resize(self.wide.mask, self.wide.columns.raw.detach())
        self._count_entries()

    @staticmethod
    def can_anneal(sae: AbstractSae) -> bool:
        """Whether an SAE's degree may fall: it is tied, and has one."""
        return isinstance(sae, ExpanderSae) and sae.tied

    def degree(self, number: int) -> float:
        """The mean degree after so many steps."""
        left = min(1.0, max(0.0, (self.until - number) / (self.until - self.since)))
        return self.final + (self.start - self.final) * left**3

    def after_step(self, step: Step, found: Found) -> None:
        """Cut where that is due."""
        del found
        done = step.number + 1
        if self._falling() and done > self.since and (done % self.config.every == 0 or done >= self.until):
            self._cut(self.degree(done))

    def _falling(self) -> bool:
        entries = self.sae.degree * self.sae.n_latents if self.irregular is None else self.irregular.sae.entries
        return entries > round(self.final * self.sae.n_latents)

    def _cut(self, degree: float) -> None:
        if self.irregular is None:
            return cut(self.sae, round(degree), self.optimizer)
        # As many slots for each entry as at the end.
        slots = max(self.slots, min(self.sae.degree, round(self.slots * degree / self.final)))
        entries = round(degree * self.sae.n_latents)
        cut_unevenly(self.irregular.sae, entries, slots, self.irregular.energy, self.optimizer)

    def _count_entries(self) -> None:
        if self.irregular is not None:
            self.irregular.sae.entries = int(self.irregular.sae.present().sum())

    def logged(self) -> dict[str, float]:
        """The mean degree, while it falls."""
        if not self._falling():
            return {}
        return {
            "degree": self.sae.degree if self.irregular is None else self.irregular.sae.entries / self.sae.n_latents
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the degree began, where it ends, and whether it has begun."""
        state: dict[str, Any] = {"anneal": (self.start, self.final, self.begun)}
        return state if self.irregular is None else state | {"anneal_slots": self.slots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.start, self.final, self.begun = state["anneal"]
        self.slots = state.get("anneal_slots", self.slots)
        self._count_entries()


@torch.no_grad()
def widen(sae: ExpanderSae, degree: int) -> None:
    """Put random columns of another degree in the place of an SAE's, on a mask of its seed."""
    mask = make_mask("balanced", d_in=sae.d_in, n_latents=sae.n_latents, degree=degree, seed=sae.seed)
    sae.resize(mask, random_columns(sae.n_latents, degree, sae.seed).raw.detach())


@torch.no_grad()
def cut(sae: ExpanderSae, degree: int, optimizer: torch.optim.Optimizer) -> None:
    """Keep the `degree` largest entries of every column, and the moments of the optimiser with them.

    A column's length stays what it was: shorter ones would take larger steps.
    """
    if degree < sae.degree:
        _narrow(sae, degree, sae.columns.raw.norm(dim=1, keepdim=True), optimizer)


@torch.no_grad()
def cut_unevenly(sae: IrregularSae, entries: int, slots: int, energy: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Keep the entries that matter most (`keep_entries`), at most `slots` of a column; lengths stay what they were."""
    length = sae.columns.raw.norm(dim=1, keepdim=True)
    keep_entries(sae, energy, optimizer, entries, slots)
    sae.entries = int(sae.present().sum())
    _narrow(sae, slots, length, optimizer)


def _narrow(sae: ExpanderSae, degree: int, length: Tensor, optimizer: torch.optim.Optimizer) -> None:
    raw = sae.columns.raw
    kept = raw.abs().topk(degree, dim=1).indices.sort(dim=1).values
    values = raw.gather(1, kept)
    values *= length / values.norm(dim=1, keepdim=True).clamp_min(1e-30)
    rows = sae.rows.long().gather(1, kept)
    state: dict[str, Tensor] = optimizer.state[raw]
    for name in ("exp_avg", "exp_avg_sq"):
        if name in state:
            state[name] = state[name].gather(1, kept)
    sae.resize(mask_from_rows(rows.cpu().numpy(), d_in=sae.d_in), values)
