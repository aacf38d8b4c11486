"""The loss of an SAE: how far its reconstructions are from the activations."""

from typing import Protocol

import torch
from torch import Tensor

from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.saes import AbstractSae

from .parts import Found


class Loss(Protocol):
    """What one SAE's training makes small."""

    parameters: list[torch.nn.Parameter]
    """What it trains."""

    def __call__(self, x: Tensor, *, keep_residual: bool = False) -> Found:
        """The loss of x [batch, d_in]."""
        ...

    def rebuild(self, x: Tensor) -> Tensor:
        """x_hat [tokens, d_in], by what is being trained."""
        ...


class SquaredError:
    """Mean of ||x - x_hat||^2 over the tokens of a batch, by default over the data's variance (then it is the fvu).

    Args:
        sae: all its parameters are trained.
        variance: mean of ||x - mean||^2 in a large sample.
        unit: "variance", or "token" for the raw mean.
        stages: stages of the pursuit that finds the codes, at most the SAE's own; None: the SAE's own.
        spare: likewise, columns each of those stages picks beyond its share.
    """

    def __init__(self, sae: AbstractSae, variance: float, *, unit: str, stages: int | None, spare: int | None) -> None:
        self.sae, self.variance = sae, variance
        self.scale = variance if unit == "variance" else 1.0
        self.parameters = list(sae.parameters())
        self.reading = reading_in_training(sae, stages, spare)

    def __call__(self, x: Tensor, *, keep_residual: bool = False) -> Found:
        """The loss of x [batch, d_in]."""
        out = self.sae.reconstruction_loss(x, keep_residual=keep_residual, reading=self.reading)
        tokens = x.shape[0]
        fvu = out.loss.detach() / (tokens * self.variance)
        return Found(out.loss / (tokens * self.scale), fvu, out.codes, out.fired, out.residual)

    def rebuild(self, x: Tensor) -> Tensor:
        """x_hat [tokens, d_in] by the SAE's own reading."""
        return self.sae(x)


def reading_in_training(sae: AbstractSae, stages: int | None, spare: int | None) -> Reading:
    """The SAE's own reading; in stages, with no more of them and of spare columns than these (None: no limit).

    0 stages is the encoder, whatever the SAE's own reading is.
    """
    own = sae.reading
    if stages == 0:
        return Encoder()
    if not isinstance(own, Stages):
        return own
    own = own.fitted(sae.k, sae.n_latents)
    assert own.spare is not None
    fewer = own.stages if stages is None else min(own.stages, stages)
    return Stages(fewer, own.spare if spare is None else min(own.spare, spare))
