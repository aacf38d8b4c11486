"""Sparse columns written out with their zeros."""

from torch import Tensor


def in_full(rows: Tensor | None, values: Tensor, d_in: int) -> Tensor:
    """Values [count, degree] on their rows (None: they are dense already) as [count, d_in], differentiable."""
    return values if rows is None else values.new_zeros(len(values), d_in).scatter(1, rows.long(), values)
