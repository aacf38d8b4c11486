"""Learning rate by step."""

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step`, 0-based.

    trapezoid: peak * min(1, (step + 1) / warm-up steps, steps left / decay steps), never below the final rate.
    cosine: from peak to final over the steps after the warm-up.
    """
    steps = config.steps
    warmup = config.warmup * steps
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if config.schedule == "cosine":
        progress = min(1.0, max(0.0, (step - warmup) / max(1.0, steps - warmup)))
        fall = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay = config.decay * steps
        fall = min(1.0, (steps - step) / decay) if decay > 0 else 1.0
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * rise * fall
