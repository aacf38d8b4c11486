"""What latents mean: how well the best of them tell concepts, beside what needs no training at all."""

from .concepts import BROAD, Concept, broad_concepts
from .features import (
    Features,
    coordinates,
    latent_features,
    principal_components,
    redrawn_values,
    shuffled_rows,
    untrained,
)
from .narrow import narrow_concepts
from .probe import Probed, prepare, probe
from .stability import Agreement, Matched, agreement, match_directions, under_noise
from .text import Text, read_text
from .worlds import Recovery, World, WorldSettings, recovery

__all__ = [
    "BROAD",
    "Agreement",
    "Concept",
    "Features",
    "Matched",
    "Probed",
    "Recovery",
    "Text",
    "World",
    "WorldSettings",
    "agreement",
    "broad_concepts",
    "coordinates",
    "latent_features",
    "match_directions",
    "narrow_concepts",
    "prepare",
    "principal_components",
    "probe",
    "read_text",
    "recovery",
    "redrawn_values",
    "shuffled_rows",
    "under_noise",
    "untrained",
]
