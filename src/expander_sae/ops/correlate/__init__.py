"""W^T x in full, and the Gram matrix of a support."""

from .api import correlate, support_gram

__all__ = ["correlate", "support_gram"]
