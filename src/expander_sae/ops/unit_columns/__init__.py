"""Columns scaled to unit length."""

from .api import unit_columns

__all__ = ["unit_columns"]
