"""What latents mean: how well the best of them tell concepts, beside what needs no training at all.

It needs scikit-learn, which the rest of the package does not.
"""

from expander_sae.records import ExpanderSaeError

try:
    import sklearn  # noqa: F401  # and scipy, which it brings
except ImportError as error:
    raise ExpanderSaeError(
        f"expected scikit-learn >= 1.6 for probes and what goes with them; got {error}. "
        "pip install 'expander-sae[sklearn]'"
    ) from error

from .absorption import absorption, cautions, read_words
from .concepts import BROAD, Concept, broad_concepts
from .features import (
    Features,
    coordinates,
    latent_features,
    principal_components,
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
    "text_means",
    "under_noise",
]
