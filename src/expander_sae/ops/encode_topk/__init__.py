"""Fused correlate + TopK."""

from .api import encode_topk

__all__ = ["encode_topk"]
