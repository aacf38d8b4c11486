"""The loss of an SAE: how far its reconstructions are from the activations."""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.saes import AbstractSae

from .parts import Found, OnePass


class Loss(Protocol):
    """What one SAE's training makes small."""

    parameters: list[torch.nn.Parameter]
    """What it trains."""

    def __call__(self, x: Tensor, *, number: int = 0, keep_residual: bool = False, tokens: int | None = None) -> Found:
        """The loss of x [batch, d_in] in a step, 0-based; as a part of a batch of so many `tokens`, where x is one."""
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
        one_pass: whether the encoder of an SAE that is read by pursuit is trained too.
        steps: of the pass.
    """

    def __init__(
        self,
        sae: AbstractSae,
        variance: float,
        *,
        unit: str,
        reading: Reading | None,
        one_pass: OnePass | None = None,
        steps: int = 1,
    ) -> None:
        self.sae, self.variance = sae, variance
        self.scale = variance if unit == "variance" else 1.0
        self.parameters = list(sae.parameters())
        self.reading = reading_in_training(sae, reading)
        self.one_pass = None if isinstance(self.reading, Encoder) else one_pass
        self.alone = 0.0 if self.one_pass is None else self.one_pass.alone * steps

    def __call__(self, x: Tensor, *, number: int = 0, keep_residual: bool = False, tokens: int | None = None) -> Found:
        """The loss of x [batch, d_in] in a step, 0-based; as a part of a batch of so many `tokens`, where x is one."""
        reading = Encoder() if number < self.alone else self.reading
        out = self.sae.reconstruction_loss(x, keep_residual=keep_residual, reading=reading)
        tokens, loss = x.shape[0] if tokens is None else tokens, out.loss
        fvu = loss.detach() / (tokens * self.variance)
        if self.one_pass is not None and self.one_pass.weight and number >= self.alone:
            loss = loss + self.one_pass.weight * self.sae.reconstruction_loss(x, reading=Encoder()).loss
        return Found(loss / (tokens * self.scale), fvu, out.codes, out.fired, out.residual)

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
