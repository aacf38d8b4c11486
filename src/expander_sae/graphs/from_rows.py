"""Masks from rows that someone chose or learned."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .mask import Mask


def mask_from_rows(rows: np.ndarray, *, d_in: int) -> Mask:
    """A mask from given rows, sorted within each column.

    Args:
        rows: integers [n_latents, degree] in [0, d_in), in any order, distinct within a column.
        d_in: number of rows of the dictionary.

    Returns:
        A mask with construction "rows" and no seed; a checkpoint has to store its rows.

    Raises:
        ExpanderSaeError: wrong shape or type, a row outside [0, d_in), or a row twice in one column.

    Example:
        >>> mask_from_rows(np.array([[5, 1], [0, 2]]), d_in=6).rows.tolist()
        [[1, 5], [0, 2]]
    """
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise ExpanderSaeError(f"expected rows [n_latents, degree]; got shape {rows.shape}.")
    return Mask(np.sort(rows, axis=1), d_in=d_in, construction="rows", seed=None)
