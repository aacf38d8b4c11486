"""Training: many SAEs over one pass of the activations."""

from .batches import StoreBatches, heldout_sample
from .config import Inputs, TrainConfig, Watch
from .fit import fit
from .loop import train
from .optimizer import Adam, Schedule
from .parts import (
    Anneal,
    Coherence,
    ExtraLoss,
    Flatness,
    MoveSupports,
    OnePass,
    Resample,
    Revive,
    amortisation_loss,
    with_own_encoder,
)
from .presets import DEFAULT_PRESET, PRESETS, Preset, find_preset

__all__ = [
    "DEFAULT_PRESET",
    "PRESETS",
    "Adam",
    "Anneal",
    "Coherence",
    "ExtraLoss",
    "Flatness",
    "Inputs",
    "MoveSupports",
    "OnePass",
    "Preset",
    "Resample",
    "Revive",
    "Schedule",
    "StoreBatches",
    "TrainConfig",
    "Watch",
    "amortisation_loss",
    "find_preset",
    "fit",
    "heldout_sample",
    "train",
    "with_own_encoder",
]
