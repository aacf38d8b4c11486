"""Repaired masks: uniform ones in which an entry is moved into every empty row, the source paper's masks."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .uniform import uniform_rows

_TRIES, _REDRAWS = 64, 32


def repaired_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] of a uniform draw, with no row empty.

    Row by row, an empty one takes an entry of a random column whose row can spare it (right degree two or more), in at
    most 64 tries; where that fails the whole mask is drawn anew, 32 times at most. At the paper's sizes no row
    is ever empty (the chance is about d_in exp(-n_latents degree / d_in)) and the mask is the uniform draw itself. The
    columns are not independent any more, so the probability bounds for uniform masks are not claimed for these.

    Raises:
        ExpanderSaeError: fewer entries than rows, or no repair was found.

    Source: Expander SAE paper, mask construction.
    """
    if n_latents * degree < d_in:
        raise ExpanderSaeError(
            f"expected at least d_in = {d_in} entries in a repaired mask; got n_latents * degree = "
            f"{n_latents * degree}. Use the construction uniform, whose rows may stay empty."
        )
    for _ in range(1 + _REDRAWS):
        rows = uniform_rows(d_in, n_latents, degree, stream)
        if _fill_empty_rows(rows, d_in, stream):
            return rows
    raise ExpanderSaeError(
        f"expected to reach all {d_in} rows with {n_latents} columns of {degree} entries; got some empty in "
        f"each of {1 + _REDRAWS} draws. Use the construction balanced."
    )


def _fill_empty_rows(rows: np.ndarray, d_in: int, stream: CounterStream) -> bool:
    """Move an entry into every empty row, in place; False where one found none in its tries."""
    n_latents, degree = rows.shape
    right = np.bincount(rows.ravel(), minlength=d_in)
    for empty in np.flatnonzero(right == 0):
        for place in stream.integers(n_latents * degree, _TRIES).tolist():
            column, slot = divmod(place, degree)
            given = rows[column, slot]
            if right[given] > 1:
                right[given] -= 1
                right[empty] += 1
                rows[column, slot] = empty
                rows[column].sort()
                break
        else:
            return False
    return True
