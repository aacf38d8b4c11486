"""Training: many SAEs over one pass of the activations."""

from .amortise import amortisation_loss, with_own_encoder
from .batches import StoreBatches, heldout_sample
from .config import DEFAULT_RECIPE, PRESETS, TrainConfig, paper_grid_options, paper_sae_options
from .fit import fit
from .loop import train
from .member import ExtraLoss

__all__ = [
    "DEFAULT_RECIPE",
    "PRESETS",
    "ExtraLoss",
    "StoreBatches",
    "TrainConfig",
    "amortisation_loss",
    "fit",
    "heldout_sample",
    "paper_grid_options",
    "paper_sae_options",
    "train",
    "with_own_encoder",
]
