"""What a part of training is: something one SAE's training does beside its own loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops import Codes
from expander_sae.saes import AbstractSae

from ..firing import FiringHistory


class Trained(NamedTuple):
    """What the parts of one SAE's training work on."""

    sae: AbstractSae
    optimizer: torch.optim.Optimizer
    history: FiringHistory
    generator: torch.Generator
    """For draws; on the CPU, so that a device changes none."""
    steps: int
    """Of the whole pass."""
    ranks: Ranks = ALONE
    """Those that train this SAE together. What a part keeps is the same on all of them, or adds up over them."""


class Step(NamedTuple):
    """What is known as a step begins."""

    number: int
    """0-based."""
    x: Tensor
    """[batch, d_in], this rank's share of the batch."""
    dead: Tensor
    """Latents that are dead now, int64."""
    tokens: int
    """Of the whole batch, over all ranks."""


class Found(NamedTuple):
    """What the loss found for this rank's share of the batch of a step."""

    loss: Tensor
    """A scalar to call backward on; those of all ranks add up to the loss of the batch."""
    fvu: Tensor
    """Squared error over the data's variance, detached; adds up likewise."""
    codes: Codes
    """Detached."""
    fired: Tensor
    """[n_latents], uint8 or bool: whether some code of the batch is not zero."""
    residual: Tensor | None = None
    """x - x_hat [batch, d_in], detached; None unless a part wants it."""


class Part:
    """One part of the training of one SAE; a subclass says what it does at the moments it cares about.

    What it keeps between steps is in its `state_dict`; the keys of all parts of one SAE differ, since a checkpoint has
    them side by side.
    """

    def begin(self) -> None:
        """Called before the first step, and before the first one of a pass that is gone on with."""

    def wants_residual(self, step: Step) -> bool:
        """Whether `Found.residual` is needed in this step."""
        del step
        return False

    def before_step(self, step: Step, found: Found) -> Tensor | None:
        """A scalar to add to the loss of this step, or None; those of all ranks add up."""
        del step, found
        return None

    def after_backward(self) -> None:
        """Called with the gradients, before they are clipped: some may have to be zero."""

    def after_step(self, step: Step, found: Found) -> None:
        """Called once the optimiser has moved the parameters."""

    def logged(self) -> dict[str, float]:
        """Numbers for the step's line in the log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; `state` is that of all parts."""
