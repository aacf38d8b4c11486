"""Training: many SAEs over one pass of the activations."""

from .batches import StoreBatches
from .config import PRESETS, TrainConfig, paper_sae_options
from .loop import train

__all__ = ["PRESETS", "StoreBatches", "TrainConfig", "paper_sae_options", "train"]
