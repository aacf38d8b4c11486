"""What latents mean: how well the best of them tell concepts, beside what needs no training at all."""

from .absorption import absorption, cautions, read_words
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
from .hub_sets import HUB_SETS, read_hub_set
from .labelled import LabelledTexts, deal, read_labelled
from .labelled_probe import probe_labelled
from .means import text_means
from .narrow import narrow_concepts
from .probe import Probed, prepare, probe
from .stability import Agreement, Matched, agreement, match_directions, under_noise
from .text import Text, read_text
from .worlds import Recovery, World, WorldSettings, recovery

__all__ = [
    "BROAD",
    "HUB_SETS",
    "Agreement",
    "Concept",
    "Features",
    "LabelledTexts",
    "Matched",
    "Probed",
    "Recovery",
    "Text",
    "World",
    "WorldSettings",
    "absorption",
    "agreement",
    "broad_concepts",
    "cautions",
    "coordinates",
    "deal",
    "latent_features",
    "match_directions",
    "narrow_concepts",
    "prepare",
    "principal_components",
    "probe",
    "probe_labelled",
    "read_hub_set",
    "read_labelled",
    "read_text",
    "read_words",
    "recovery",
    "redrawn_values",
    "shuffled_rows",
    "text_means",
    "under_noise",
    "untrained",
]
