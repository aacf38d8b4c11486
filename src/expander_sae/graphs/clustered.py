"""Clustered masks: the control with as little support diversity as a degree allows."""

import numpy as np

from .counter import CounterStream
from .mask import row_dtype


def clustered_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] where each column takes one of floor(d_in / degree) disjoint row blocks.

    The blocks are cut from a random order of the rows, so that the control does not depend on how the model
    orders its coordinates; the blocks are dealt to the columns equally often up to one, in random order. The
    d_in mod degree rows left over stay empty (see `Mask.empty_rows`), as in the source paper.

    Source: Expander SAE paper, the "clustered sparse" control.
    """
    blocks = d_in // degree
    dtype = row_dtype(d_in)
    order = stream.shuffled(np.arange(d_in, dtype=dtype), bits=max(1, (d_in - 1).bit_length()))
    table = np.sort(order[: blocks * degree].reshape(blocks, degree), axis=1)
    dealt = np.arange(n_latents, dtype=np.int64) % blocks
    return table[stream.shuffled(dealt, bits=max(1, (blocks - 1).bit_length()))]
