"""What latents mean: how well the best of them tell concepts, beside what needs no training at all."""

from .absorption import absorption, cautions, read_words
from .concepts import BROAD, Concept, broad_concepts
from .features import Features, coordinates, latent_features, principal_components, untrained
from .hub_sets import HUB_SETS, read_hub_set
from .labelled import LabelledTexts, deal, read_labelled
from .labelled_probe import probe_labelled
from .means import text_means
from .narrow import narrow_concepts
from .probe import Probed, prepare, probe
from .text import Text, read_text

__all__ = [
    "BROAD",
    "HUB_SETS",
    "Concept",
    "Features",
    "LabelledTexts",
    "Probed",
    "Text",
    "absorption",
    "broad_concepts",
    "cautions",
    "coordinates",
    "deal",
    "latent_features",
    "narrow_concepts",
    "prepare",
    "principal_components",
    "probe",
    "probe_labelled",
    "read_hub_set",
    "read_labelled",
    "read_text",
    "read_words",
    "text_means",
    "untrained",
]
