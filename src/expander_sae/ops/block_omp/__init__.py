"""Orthogonal matching pursuit, a block of columns per stage."""

from .api import block_omp

__all__ = ["block_omp"]
