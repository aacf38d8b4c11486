"""Decoding from codes."""

from .api import sparse_decode

__all__ = ["sparse_decode"]
