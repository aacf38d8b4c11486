"""See the latents: one file with everything that is shown of them (`LatentStore`), and people's labels (`LabelFile`).

Nothing that reads imports torch; `expander_sae.latents.building` makes stores.
"""

from .connection import StoreChanged
from .explanations import Explanation
from .labels import Conflict, Label, LabelFile
from .latent import (
    Context,
    Histogram,
    Latent,
    Match,
    Neighbour,
    Overview,
    Places,
    Summary,
    TokenCount,
    TokenWeight,
    View,
)
from .store import LatentStore

__all__ = [
    "Conflict",
    "Context",
    "Explanation",
    "Histogram",
    "Label",
    "LabelFile",
    "Latent",
    "LatentStore",
    "Match",
    "Neighbour",
    "Overview",
    "Places",
    "StoreChanged",
    "Summary",
    "TokenCount",
    "TokenWeight",
    "View",
]
