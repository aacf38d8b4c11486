"""Training: many SAEs over one pass of the activations."""

from .amortise import amortisation_loss, with_own_encoder
from .batches import StoreBatches, heldout_sample
from .config import PRESETS, TrainConfig, paper_grid_options, paper_sae_options
from .loop import train
from .member import ExtraLoss

__all__ = [
    "PRESETS",
    "ExtraLoss",
    "StoreBatches",
    "TrainConfig",
    "amortisation_loss",
    "heldout_sample",
    "paper_grid_options",
    "paper_sae_options",
    "train",
    "with_own_encoder",
]
