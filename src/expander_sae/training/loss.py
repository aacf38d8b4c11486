"""The loss of an SAE: how far its reconstructions are from the activations."""

from dataclasses import replace
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
        reading: what finds the codes, as in `TrainConfig.reading`.
    """

    def __init__(self, sae: AbstractSae, variance: float, *, unit: str, reading: Reading | None) -> None:
        self.sae, self.variance = sae, variance
        self.scale = variance if unit == "variance" else 1.0
        self.parameters = list(sae.parameters())
        self.reading = reading_in_training(sae, reading)

    def __call__(self, x: Tensor, *, keep_residual: bool = False) -> Found:
        """The loss of x [batch, d_in]."""
        out = self.sae.reconstruction_loss(x, keep_residual=keep_residual, reading=self.reading)
        tokens = x.shape[0]
        fvu = out.loss.detach() / (tokens * self.variance)
        return Found(out.loss / (tokens * self.scale), fvu, out.codes, out.fired, out.residual)

    def rebuild(self, x: Tensor) -> Tensor:
        """x_hat [tokens, d_in] by the SAE's own reading."""
        return self.sae(x)


def reading_in_training(sae: AbstractSae, limit: Reading | None) -> Reading:
    """The SAE's own reading; in stages, with no more of them and of spare columns than `limit` has. A limit that is the
    encoder is what finds the codes, whatever the SAE's own reading is."""
    own = sae.reading
    if isinstance(limit, Encoder):
        return limit
    if not isinstance(own, Stages) or not isinstance(limit, Stages):
        return own
    own = own.fitted(sae.k, sae.n_latents)
    assert own.spare is not None
    spare = own.spare if limit.spare is None else min(own.spare, limit.spare)
    return replace(own.at_most(limit.stages), spare=spare)
