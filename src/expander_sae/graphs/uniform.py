"""Uniform masks: every column is an independent, uniformly random d-subset of the rows."""

import numpy as np

from .counter import CounterStream
from .mask import row_dtype


def uniform_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] whose columns are i.i.d. uniform over the C(d_in, degree) subsets.

    Draw `degree` rows with replacement, keep the distinct ones, draw again for the missing ones, and so on.
    The procedure treats all rows alike, so by symmetry every subset is equally likely.

    Right degrees are binomial with mean n_latents * degree / d_in, and a row may stay empty: `Mask.empty_rows` tells.
    The source paper moves an entry of another column into an empty row; that is the construction "repaired", and not
    done here, because the probability bounds on expansion and on stopping sets hold for exactly i.i.d. columns. The
    balanced construction leaves no row empty once n_latents * degree >= d_in.

    Source: Expander SAE paper, mask construction (without its repair of empty rows).
    """
    if 2 * degree > d_in:  # the complement of a uniform subset is uniform, and redraws stay rare
        return complement_rows(uniform_rows(d_in, n_latents, d_in - degree, stream), d_in)
    if degree == 0:
        return np.empty((n_latents, 0), row_dtype(d_in))
    drawn = stream.integers(d_in, n_latents * degree, row_dtype(d_in)).reshape(n_latents, degree)
    drawn.sort(axis=1)
    columns = np.flatnonzero((drawn[:, 1:] == drawn[:, :-1]).any(axis=1))
    while columns.size:
        part = drawn[columns]
        repeated = np.zeros(part.shape, bool)
        repeated[:, 1:] = part[:, 1:] == part[:, :-1]
        part[repeated] = stream.integers(d_in, int(repeated.sum()), row_dtype(d_in))
        part.sort(axis=1)
        drawn[columns] = part
        columns = columns[(part[:, 1:] == part[:, :-1]).any(axis=1)]
    return drawn


def complement_rows(rows: np.ndarray, d_in: int) -> np.ndarray:
    """The rows each column does not have, sorted: [n_latents, d_in - degree]."""
    n_latents, degree = rows.shape
    out = np.empty((n_latents, d_in - degree), row_dtype(d_in))
    step = max(1, (1 << 24) // d_in)  # columns per pass, so the table of booleans stays at 16 MiB
    for first in range(0, n_latents, step):
        part = rows[first : first + step]
        absent = np.ones((len(part), d_in), bool)
        np.put_along_axis(absent, part.astype(np.int64), False, axis=1)
        out[first : first + step] = np.nonzero(absent)[1].reshape(len(part), -1)
    return out
