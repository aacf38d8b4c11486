"""What may be part of an SAE's training beside its loss: one file a part, with its settings and what it does."""

from .amortise import AmortisePart, amortisation_loss, with_own_encoder
from .anneal import Anneal, AnnealPart
from .coherence import Coherence, CoherencePart
from .extra_loss import ExtraLoss, ExtraLossPart
from .flatness import Flatness, FlatnessPart
from .irregular import IrregularPart
from .move_supports import MoveSupports, MoveSupportsPart
from .one_pass import OnePass
from .part import Found, Part, Step, Trained
from .resample import Resample, ResamplePart
from .revive import Revive, RevivePart

__all__ = [
    "AmortisePart",
    "Anneal",
    "AnnealPart",
    "Coherence",
    "CoherencePart",
    "ExtraLoss",
    "ExtraLossPart",
    "Flatness",
    "FlatnessPart",
    "Found",
    "IrregularPart",
    "MoveSupports",
    "MoveSupportsPart",
    "OnePass",
    "Part",
    "Resample",
    "ResamplePart",
    "Revive",
    "RevivePart",
    "Step",
    "Trained",
    "amortisation_loss",
    "with_own_encoder",
]
