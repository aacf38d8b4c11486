"""Masks: left-d-regular bipartite graphs that say which rows each dictionary column may use."""

from .compact import column_bits, pack_rows, unpack_rows
from .from_rows import mask_from_rows
from .make import CONSTRUCTIONS, make_mask
from .mask import Mask

__all__ = ["CONSTRUCTIONS", "Mask", "column_bits", "make_mask", "mask_from_rows", "pack_rows", "unpack_rows"]
