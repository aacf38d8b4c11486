"""Feature stores made from SAEs and activations: one pass, then what follows from the columns."""

from .build import build_store, work_folder
from .settings import Settings, Source, sources

__all__ = ["Settings", "Source", "build_store", "sources", "work_folder"]
