"""Rows of a mask as bytes, one buffer in a type that everything can move.

The kernels read uint16. torch can neither pickle nor index such tensors, and collectives refuse them; bytes that are
viewed as uint16 where the kernels read them cost nothing, and there is no second copy to fall behind.
"""

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import Mask
from expander_sae.records import ExpanderSaeError


def bytes_of(mask: Mask) -> Tensor:
    """uint8 [n_latents, degree * bytes of a row]: the rows in the kernels' own integer type."""
    kind = np.uint16 if mask.d_in <= 65536 else np.int64
    return torch.from_numpy(mask.rows.astype(kind, order="C").view(np.uint8).reshape(mask.n_latents, -1))


def rows_in(row_bytes: Tensor, d_in: int) -> Tensor:
    """The rows [..., degree] that `bytes_of` made bytes of, in the same memory."""
    return row_bytes.view(torch.uint16 if d_in <= 65536 else torch.int64)


def loaded_mask(rows: Tensor, d_in: int) -> Mask:
    """The mask of rows [n_latents, degree] that came from elsewhere, as integers of any type.

    Raises:
        ExpanderSaeError: they are no integers, not below d_in, or not ascending in a column. (Sorting them would leave
            the values on the wrong rows.)
    """
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        raise ExpanderSaeError(
            f"expected rows as integers; got {rows.dtype}. Was all of a state dict cast? Cast its values, not its rows."
        )
    return Mask(rows.detach().cpu().numpy(), d_in=d_in, construction="rows", seed=None)


def rank_within(rows: Tensor) -> Tensor:
    """How many earlier elements of rows [entries] are the same row, [entries]: where entries compete for room on a row,
    those of a rank below its free places get in.

    Example:
        >>> rank_within(torch.tensor([5, 2, 5, 5])).tolist()
        [0, 0, 1, 2]
    """
    order = rows.sort(stable=True).indices
    ordered = rows[order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    position = torch.arange(len(rows), device=rows.device)
    first = torch.where(starts, position, 0).cummax(0).values if len(rows) else position
    return torch.empty_like(position).scatter_(0, order, position - first)
