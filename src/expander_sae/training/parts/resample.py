"""Rarely firing latents come back by resampling: now and then they are pointed at what is explained worst."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..firing import FiringHistory
from .part import Found, Part, Step, Trained


@dataclass(frozen=True)
class Resample:
    """The resampling of arXiv 2607.01799."""

    every: int = 1_000
    """Steps between resamplings."""
    fewer_than: int = 5
    """Fewer firings than this since the last resampling make a latent a candidate."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ExpanderSaeError(f"expected every >= 1 in Resample; got {self.every}. resample=None turns it off.")


class ResamplePart(Part):
    """Counts firings, and calls `resample` every so many steps."""

    def __init__(self, config: Resample, trained: Trained) -> None:
        self.config, self.sae, self.ranks = config, trained.sae, trained.ranks
        self.history, self.generator = trained.history, trained.generator

    def wants_residual(self, step: Step) -> bool:
        """In the steps that end with a resampling."""
        return (step.number + 1) % self.config.every == 0

    def after_step(self, step: Step, found: Found) -> None:
        """Count, and resample where it is due."""
        self.history.count(found.codes, self.ranks)
        if self.wants_residual(step):
            assert found.residual is not None
            residual = self.ranks.joined(found.residual)
            resample(self.sae, residual, self.history, self.config.fewer_than, self.generator)


@torch.no_grad()
def resample(
    sae: AbstractSae, residual: Tensor, history: FiringHistory, fewer_than: int, generator: torch.Generator
) -> int:
    """The paper's revival: point every latent with too few firings at a residual x - x_hat [batch, d_in] of this batch.

    Samples are drawn with probability proportional to their squared error; a column takes the residual restricted to
    its support, at a raw length of 1 / sqrt(degree), and its latent bias goes to zero. Skipped if no latent or more
    than 80% are candidates; the optimiser's moments are left alone. Returns how many latents were moved.
    """
    candidates = (history.firings < fewer_than).nonzero()[:, 0]
    history.firings.zero_()
    if not 0 < candidates.numel() <= 0.8 * sae.n_latents:
        return 0
    errors = residual.double().square().sum(1)
    if not float(errors.sum()) > 0:
        return 0  # everything is rebuilt: there is nothing to point at
    chances = (errors / errors.sum()).cpu()  # the generator is the CPU's, so that a device changes no draw
    draws = torch.multinomial(chances, candidates.numel(), replacement=True, generator=generator)
    pairs = zip(candidates.tolist(), draws.tolist(), strict=True)
    return sum(sae.point_latent(latent, residual[draw], sae.degree**-0.5) for latent, draw in pairs)
