"""One SAE on its way through a training pass: an optimiser, a loss and parts."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae, InputStatistics, IrregularSae, initialise, set_input_scale
from expander_sae.saes.rows import loaded_mask

from .config import TrainConfig
from .firing import FiringHistory
from .loss import Loss, SquaredError
from .parts import (
    AmortisePart,
    AnnealPart,
    CoherencePart,
    ExtraLoss,
    ExtraLossPart,
    FlatnessPart,
    Found,
    IrregularPart,
    MoveSupportsPart,
    Part,
    ResamplePart,
    RevivePart,
    Step,
    Trained,
)


class Member:
    """Trains one SAE batch by batch, where its parameters are; everything it needs to go on later is in its
    `state_dict`.

    Over several ranks each has a copy of the SAE, and sees its share of each batch. Their gradients are summed before
    the optimiser's step, so the copies stay equal.
    """

    def __init__(
        self,
        name: str,
        sae: AbstractSae,
        config: TrainConfig,
        statistics: InputStatistics,
        extra_loss: ExtraLoss | None = None,
        wide: ExpanderSae | None = None,
        ranks: Ranks = ALONE,
        accumulate: int = 1,
    ) -> None:
        self.name, self.sae, self.config = name, sae, config
        self.ranks, self.accumulate = ranks, accumulate
        self.device = sae.b_dec.device
        self.history = FiringHistory(sae.n_latents, self.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.loss = _loss(name, sae, config, statistics.variance, self.history, ranks)
        self.optimizer = config.adam.over(self.loss.parameters, config.learning_rate)
        trained = Trained(sae, self.optimizer, self.history, self.generator, config.steps, ranks)
        self.parts = _parts(self.loss, config, trained, extra_loss, wide)
        _start(sae, config, statistics)
        self.begun = self.diverged = False
        self.last: dict[str, float] = {}
        self.cpu_seconds = 0.0
        """Of all threads, in this SAE's own steps."""

    def step(self, number: int, x: Tensor, tokens: int | None = None) -> None:
        """One optimiser step on x [batch, d_in], this rank's share of a batch of so many `tokens` (None: all of it); a
        loss or a gradient that is not finite stops this SAE for good."""
        if self.diverged:
            return
        started = time.process_time()
        self._step(number, x, x.shape[0] if tokens is None else tokens)
        self.cpu_seconds += time.process_time() - started

    def _step(self, number: int, x: Tensor, tokens: int) -> None:
        if not self.begun:
            for part in self.parts:
                part.begin()
            self.begun = True
        step = Step(number, x, self.history.dead(self.config.dead_after_tokens), tokens)
        self.optimizer.zero_grad(set_to_none=True)
        found = self._look(step)
        if self.ranks.alone and not bool(torch.isfinite(found.loss)):  # of several ranks: once it is summed
            self.diverged = True
            return
        added = [part.before_step(step, found) for part in self.parts]
        loss = sum((term for term in added if term is not None), found.loss)
        rate = self.config.rate(number)
        loss, fvu, gradient_norm = self._descend(loss, found.fvu, rate)
        if self.diverged:
            return
        self.history.update(self.ranks.anywhere(found.fired), tokens)
        for part in self.parts:
            part.after_step(step, found)
        self.last = {
            "gradient_norm": gradient_norm,
            "learning_rate": rate,
            "loss": float(loss),
            "fvu": float(fvu),
            "dead_fraction": step.dead.numel() / self.sae.n_latents,
        }
        for part in self.parts:
            self.last |= part.logged()

    def _look(self, step: Step) -> Found:
        """The loss of this rank's share: in `accumulate` pieces, each gradient made before the next piece is looked
        at."""
        keep = any(part.wants_residual(step) for part in self.parts)
        if self.accumulate == 1:
            return self.loss(step.x, number=step.number, keep_residual=keep, tokens=step.tokens)
        pieces = []
        for x in step.x.tensor_split(self.accumulate):
            found = self.loss(x, number=step.number, keep_residual=keep, tokens=step.tokens)
            found.loss.backward()
            pieces.append(found._replace(loss=found.loss.detach()))
        losses, fvus, codes, fired, residuals = zip(*pieces, strict=True)
        return Found(
            torch.stack(losses).sum(),
            torch.stack(fvus).sum(),
            Codes(*(torch.cat(parts) for parts in zip(*codes, strict=True))),
            torch.stack(fired).amax(0),
            torch.cat(residuals) if keep else None,
        )

    def _descend(self, loss: Tensor, fvu: Tensor, rate: float) -> tuple[Tensor, Tensor, float]:
        """Backward, sum over ranks, clip, one step of Adam; returns the batch's loss and fvu, and the gradient's norm
        before clipping."""
        if loss.requires_grad:  # the gradients of pieces are there already
            loss.backward()
        for part in self.parts:
            part.after_backward()
        loss, fvu = loss.detach().clone(), fvu.clone()
        self._add_up(loss, fvu)
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters, self.config.adam.clip, foreach=True)
        if not bool(torch.isfinite(norm) & torch.isfinite(loss)):
            self.diverged = True  # before the step: the parameters are still the last finite ones
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        return loss, fvu, float(norm)

    def _add_up(self, loss: Tensor, fvu: Tensor) -> None:
        """Sum the gradients, and these numbers with them, over ranks; of irregular columns the entries they have, not
        the empty slots."""
        if self.ranks.alone:
            return
        gradients = [parameter.grad for parameter in self.loss.parameters if parameter.grad is not None]
        if not isinstance(self.sae, IrregularSae):
            return self.ranks.add_up(loss, fvu, *gradients)
        slots = self.sae.columns.raw.grad
        assert slots is not None
        present = self.sae.present()
        entries = slots[present]
        self.ranks.add_up(loss, fvu, entries, *(gradient for gradient in gradients if gradient is not slots))
        slots[present] = entries

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, float | None]:
        """How well the SAE as it is now, by what is being trained of it, rebuilds held-out x [tokens, d_in], float32.

            heldout_fvu = sum ||x - x_hat||^2 / sum ||x - mean||^2,  heldout_rel_err = mean of ||x - x_hat|| / ||x||

        None for what is not finite: x without variance, or without a norm.
        """
        if self.diverged:
            return {}
        self.sae.eval()
        error = (x - self.loss.rebuild(x)).norm(dim=1)
        self.sae.train()
        norms = x.norm(dim=1)
        found = {
            "heldout_fvu": float(error.square().sum() / (x - x.mean(0)).square().sum()),
            "heldout_rel_err": float((error / norms)[norms > 0].mean()),
        }
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser, firing history, generator, the last logged numbers, and beside them what the parts
        keep; the first rank's is the state of all of them, on any number of ranks."""
        state = {
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.state_dict(),
            "generator": self.generator.get_state(),
            "diverged": self.diverged,
            "last": self.last,
        }
        for part in self.parts:
            state |= part.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        rows = state["sae"].get("rows")
        if rows is not None and isinstance(self.sae, ExpanderSae) and rows.shape[1] != self.sae.degree:
            self.sae.resize(loaded_mask(rows, self.sae.d_in), state["sae"]["columns.raw"])  # its degree was falling
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history.load_state_dict(state["history"])
        self.generator.set_state(state["generator"])
        self.diverged, self.last = state["diverged"], state["last"]
        for part in self.parts:
            part.load_state_dict(state)


@torch.no_grad()
def _start(sae: AbstractSae, config: TrainConfig, statistics: InputStatistics) -> None:
    """Give the SAE the units it is trained in and, unless it is there to stay, its decoder bias."""
    scale = statistics.scale if config.inputs.scale else 1.0
    if config.fine_tune or config.amortise:
        set_input_scale(sae, scale)
    else:
        mean = statistics.mean if config.inputs.center else torch.zeros_like(statistics.mean)
        initialise(sae, statistics._replace(scale=scale, mean=mean))
    sae.train()


def _loss(
    name: str, sae: AbstractSae, config: TrainConfig, variance: float, history: FiringHistory, ranks: Ranks
) -> Loss:
    if config.amortise:
        return AmortisePart(name, sae, variance, history, config.dead_after_tokens, ranks)
    return SquaredError(
        sae, variance, unit=config.loss_unit, reading=config.reading, one_pass=config.one_pass, steps=config.steps
    )


def _parts(
    loss: Loss, config: TrainConfig, trained: Trained, extra_loss: ExtraLoss | None, wide: ExpanderSae | None
) -> list[Part]:
    """The parts that are on and mean something for this SAE, in the order in which they act: results depend on it."""
    if isinstance(loss, AmortisePart):
        return [loss]
    sae, parts = trained.sae, list[Part]()
    moves = None
    if config.move_supports is not None and MoveSupportsPart.can_move(sae):
        moves = MoveSupportsPart(config.move_supports, trained)
    irregular = IrregularPart(trained, moves) if isinstance(sae, IrregularSae) else None
    if config.anneal is not None and AnnealPart.can_anneal(sae):
        parts.append(AnnealPart(config.anneal, trained, wide, irregular))
    if config.revive is not None:
        parts.append(RevivePart(config.revive, trained))
    if extra_loss is not None:
        parts.append(ExtraLossPart(extra_loss, trained))
    if config.coherence is not None:
        parts.append(CoherencePart(config.coherence, trained))
    if config.resample is not None:
        parts.append(ResamplePart(config.resample, trained))
    if moves is not None:
        parts.append(moves)
    if irregular is not None:
        if config.flatness is not None:
            raise ExpanderSaeError(
                "expected no flatness for an SAE with irregular degrees, whose empty slots are zero; got "
                f"{config.flatness}"
            )
        parts.append(irregular)
    elif config.flatness is not None and isinstance(sae, ExpanderSae):
        parts.append(FlatnessPart(config.flatness, trained))
    return parts
