"""One SAE on its way through a training pass: optimiser, dead latents, numbers to log."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.saes import AbstractSae, ExpanderSae, InputStatistics, initialise, set_input_scale

from .config import TrainConfig
from .constraints import coherence_penalty, keep_flat
from .dead_latents import FiringHistory, auxiliary_loss, resample
from .rewire import Requests, apply_moves, plan_moves
from .schedule import learning_rate

ExtraLoss = Callable[[AbstractSae, Tensor, Codes], Tensor]
"""Of an SAE, x [batch, d_in] and the codes it found: something more to make small, in units where an fvu of 1 is 1."""


class Member:
    """Trains one SAE batch by batch, where its parameters are; everything it needs to go on later is in its
    `state_dict`."""

    extra_loss: ExtraLoss | None = None
    """Added to the reconstruction loss as it is."""

    def __init__(self, name: str, sae: AbstractSae, config: TrainConfig, statistics: InputStatistics) -> None:
        self.name, self.sae, self.config = name, sae, config
        self.device = sae.b_dec.device
        self.variance = statistics.variance
        scale = statistics.scale if config.scale_inputs else 1.0
        mean = statistics.mean if config.center_on_mean else torch.zeros_like(statistics.mean)
        if config.fine_tune:
            set_input_scale(sae, scale)
        else:
            initialise(sae, statistics._replace(scale=scale, mean=mean))
        sae.train()
        self.optimizer = torch.optim.Adam(
            sae.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
        )
        self.history = FiringHistory(sae.n_latents, self.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.moved = 0
        self.requests = Requests(sae.n_latents, sae.d_in, self.device) if self._learns_rows(0) else None
        self.aux_k = config.aux_k or min(256, max(1, sae.d_in // 2))
        self.diverged = False
        self.last: dict[str, float] = {}

    def step(self, step: int, x: Tensor) -> None:
        """One optimiser step on x [batch, d_in]; a loss that is not finite stops this SAE for good."""
        if self.diverged:
            return
        config, sae = self.config, self.sae
        dead = self.history.dead(config.dead_after_tokens)
        revive = config.aux_coefficient > 0 and dead.numel() > 0
        resampling = config.resample_every > 0 and (step + 1) % config.resample_every == 0
        learns_rows = self._learns_rows(step)
        if not learns_rows:
            self.requests = None  # no more moves: what was asked since the last one need not be kept
        keep_residual = revive or resampling or learns_rows
        out = sae.reconstruction_loss(x, keep_residual=keep_residual, reading=reading_in_training(sae, config))
        fvu = out.loss.detach() / (x.shape[0] * self.variance)
        if not bool(torch.isfinite(out.loss)):
            self.diverged = True
            return
        loss = out.loss / (x.shape[0] * (self.variance if config.loss_unit == "variance" else 1.0))
        if revive:
            assert out.residual is not None
            loss = loss + config.aux_coefficient * auxiliary_loss(sae, x, out.residual, dead, self.aux_k)
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(sae, x, out.codes)
        if config.coherence > 0:
            sampled = torch.randperm(sae.n_latents, generator=self.generator, device="cpu")[: config.coherence_columns]
            penalty = coherence_penalty(sae, sampled.to(self.device), min(sae.k, sae.n_latents - 1))
            loss = loss + config.coherence * penalty
        self.descend(step, loss)
        if self.diverged:
            return
        self.history.update(out.fired, x.shape[0])
        self.count(out.codes)
        if config.resample_every > 0:
            self.history.count(out.codes)
        if resampling:
            assert out.residual is not None
            resample(sae, x, out.residual, self.history, config.resample_firings, self.generator)
        if learns_rows:
            assert out.residual is not None
            assert self.requests is not None
            self.requests.add(out.codes, out.residual)
            if (step + 1) % config.rewire_every == 0:
                self.rewire(self.requests)
                self.requests.clear()
        late = step + 1 >= config.flatness_from * config.steps  # the last step always is
        if config.flatness is not None and late and isinstance(sae, ExpanderSae):
            keep_flat(sae, config.flatness)
        self.last |= {"loss": float(loss.detach()), "fvu": float(fvu), "dead_fraction": dead.numel() / sae.n_latents}
        if self.moved:
            self.last["moved_entries"] = self.moved

    def descend(self, step: int, loss: Tensor) -> None:
        """Backward, clip, one step of Adam; a gradient that is not finite stops this SAE for good."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.restrict_gradients()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip, foreach=True)
        if not bool(torch.isfinite(gradient_norm)):
            self.diverged = True  # before the step: the parameters are still the last finite ones
            return
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.last = {"gradient_norm": float(gradient_norm), "learning_rate": rate}

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, float | None]:
        """How well the SAE as it is now, by what is being trained of it, rebuilds held-out x [tokens, d_in], float32.

            heldout_fvu = sum ||x - x_hat||^2 / sum ||x - mean||^2,  heldout_rel_err = mean of ||x - x_hat|| / ||x||

        None for what is not finite: x without variance, or without a norm.
        """
        if self.diverged:
            return {}
        self.sae.eval()
        error = (x - self.rebuild(x)).norm(dim=1)
        self.sae.train()
        norms = x.norm(dim=1)
        found = {
            "heldout_fvu": float(error.square().sum() / (x - x.mean(0)).square().sum()),
            "heldout_rel_err": float((error / norms)[norms > 0].mean()),
        }
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def rebuild(self, x: Tensor) -> Tensor:
        """x_hat [tokens, d_in] by the SAE's own inference."""
        return self.sae(x)

    def count(self, codes: Codes) -> None:
        """Called with the codes of every step; other members keep statistics of them."""

    def restrict_gradients(self) -> None:
        """Called between backward and clipping; other members have parameters that may not change everywhere."""

    def rewire(self, requests: Requests) -> None:
        """Move entries of the mask to where the residual asks for them."""
        sae, config = self.sae, self.config
        assert isinstance(sae, ExpanderSae)
        entries = max(2, sae.degree // 4) if config.rewire_entries is None else config.rewire_entries
        moves = plan_moves(sae, requests, entries, config.rewire_row_cap)
        self.moved += apply_moves(sae, moves, self.optimizer)

    def _learns_rows(self, step: int) -> bool:
        config = self.config
        # An encoder of its own would have to move with the dictionary: teach it once the rows are settled.
        able = isinstance(self.sae, ExpanderSae) and self.sae.reading.least_squares and self.sae.tied
        return able and config.rewire_every > 0 and step < config.rewire_until * config.steps

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser, firing history, generator and the last logged numbers."""
        return {
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.state_dict(),
            "generator": self.generator.get_state(),
            "diverged": self.diverged,
            "last": self.last,
            "moved": self.moved,
            "requests": None if self.requests is None else self.requests.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history.load_state_dict(state["history"])
        self.generator.set_state(state["generator"])
        self.diverged, self.last, self.moved = state["diverged"], state["last"], state["moved"]
        if state["requests"] is None:
            self.requests = None
        elif self.requests is not None:
            self.requests.load_state_dict(state["requests"])


def reading_in_training(sae: AbstractSae, config: TrainConfig) -> Reading:
    """The SAE's own reading; one in stages with no more of them, and of spare columns, than the config allows."""
    own = sae.reading
    if not isinstance(own, Stages) or config.stages == 0:
        return own if config.stages != 0 else Encoder()
    own = own.fitted(sae.k, sae.n_latents)
    stages = own.stages if config.stages is None else min(own.stages, config.stages)
    spare = own.spare if config.spare is None or own.spare is None else min(own.spare, config.spare)
    return Stages(stages, spare)
