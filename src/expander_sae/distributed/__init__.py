"""Several processes on one piece of work, by `torch.distributed`."""

from .ranks import ALONE, Ranks
from .torchrun import started

__all__ = ["ALONE", "Ranks", "started"]
