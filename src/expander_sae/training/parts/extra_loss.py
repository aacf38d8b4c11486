"""A loss of the caller's own beside the SAE's, such as one that keeps it near another SAE."""

from collections.abc import Callable

from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.saes import AbstractSae

from .part import Found, Part, Step, Trained

ExtraLoss = Callable[[AbstractSae, Tensor, Codes], Tensor]
"""Of an SAE, x [batch, d_in] and the codes it found: something more to make small, in units where an fvu of 1 is 1."""


class ExtraLossPart(Part):
    """Adds it as it is."""

    def __init__(self, extra_loss: ExtraLoss, trained: Trained) -> None:
        self.extra_loss, self.sae, self.ranks = extra_loss, trained.sae, trained.ranks

    def before_step(self, step: Step, found: Found) -> Tensor | None:
        """The extra loss of this batch: over several ranks, the mean of those of their shares by tokens."""
        if self.ranks.alone:
            return self.extra_loss(self.sae, step.x, found.codes)
        if not len(step.x):
            return None
        return len(step.x) / step.tokens * self.extra_loss(self.sae, step.x, found.codes)
