"""A trained dense SAE in, an Expander SAE of the same latents out, and how much of each latent is left."""

from .agreement import Agreement, LatentFates, firing_agreement, summarise
from .compress import ENCODERS, Recipe, compress
from .report import CompressionRecord, describe_source, measure, retention, write_latents
from .search import DEGREES, Target, smallest_degree
from .supports import RULES, Support, choose_support

__all__ = [
    "DEGREES",
    "ENCODERS",
    "RULES",
    "Agreement",
    "CompressionRecord",
    "LatentFates",
    "Recipe",
    "Support",
    "Target",
    "choose_support",
    "compress",
    "describe_source",
    "firing_agreement",
    "measure",
    "retention",
    "smallest_degree",
    "summarise",
    "write_latents",
]
