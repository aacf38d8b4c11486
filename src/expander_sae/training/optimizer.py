"""Adam, and its learning rate by step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from expander_sae.records import ExpanderSaeError


@dataclass(frozen=True)
class Adam:
    """Adam over the parameters of one SAE, and the clipping before it."""

    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    """Largest global gradient norm of one SAE."""

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ExpanderSaeError(f"expected clip > 0 in Adam; got {self.clip!r}")

    def over(self, parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.Adam:
        """The optimiser."""
        return torch.optim.Adam(parameters, lr=learning_rate, betas=(self.beta1, self.beta2), fused=True)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate rises to its peak and falls.

    trapezoid: peak * min(1, (step + 1) / warm-up steps, steps left / decay steps), never below the final rate.
    cosine: from peak to final over the steps after the warm-up.
    """

    shape: str = "trapezoid"
    """"trapezoid": warm up, hold, decay linearly over the last `decay` of the steps; "cosine": to the final rate."""
    warmup: float = 0.05
    """Share of the steps."""
    decay: float = 0.2
    """Share of the steps (trapezoid only)."""
    final: float = 0.0
    """The rate at the end."""

    def __post_init__(self) -> None:
        if self.shape not in ("trapezoid", "cosine"):
            raise ExpanderSaeError(f"expected shape 'trapezoid' or 'cosine' in Schedule; got {self.shape!r}")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and self.warmup + self.decay <= 1):
            raise ExpanderSaeError(f"expected warmup + decay <= 1 in Schedule; got {self.warmup} + {self.decay}")

    def rate(self, peak: float, step: int, steps: int) -> float:
        """The learning rate of step `step` out of `steps`, 0-based.

        Example:
            >>> Schedule(warmup=0.1).rate(1.0, 0, 100), Schedule(warmup=0.1).rate(1.0, 50, 100)
            (0.1, 1.0)
        """
        warmup = self.warmup * steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        if self.shape == "cosine":
            progress = min(1.0, max(0.0, (step - warmup) / max(1.0, steps - warmup)))
            fall = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            decay = self.decay * steps
            fall = min(1.0, (steps - step) / decay) if decay > 0 else 1.0
        return self.final + (peak - self.final) * rise * fall
