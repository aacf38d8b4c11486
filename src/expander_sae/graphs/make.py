"""One call for every construction that a seed can reproduce."""

from collections.abc import Callable

import numpy as np

from expander_sae.records import ExpanderSaeError

from .balanced import balanced_rows
from .capped import capped_rows
from .clustered import clustered_rows
from .counter import CounterStream
from .galois import galois_rows
from .greedy import greedy_rows
from .mask import Mask, check_sizes
from .polynomial import polynomial_rows
from .repaired import repaired_rows
from .uniform import uniform_rows

_BUILDERS: dict[str, Callable[[int, int, int, CounterStream], np.ndarray]] = {
    "balanced": balanced_rows,
    "uniform": uniform_rows,
    "repaired": repaired_rows,
    "clustered": clustered_rows,
    "greedy": greedy_rows,
    "polynomial": polynomial_rows,
    "capped": capped_rows,
    "galois": galois_rows,
}

CONSTRUCTIONS: tuple[str, ...] = tuple(_BUILDERS)
"""Names `make_mask` knows; the first is the default."""


def make_mask(construction: str = "balanced", *, d_in: int, n_latents: int, degree: int, seed: int) -> Mask:
    """The mask that (construction, d_in, n_latents, degree, seed) names, the same on every machine.

    Memory is a few times n_latents * degree; [d_in, n_latents] is never held.

    Args:
        construction: "balanced" (right degrees differ by at most one), "uniform" (i.i.d. d-subsets), "repaired" (the
            paper's: uniform, with an entry moved into every empty row), "clustered" (disjoint row blocks, a control),
            "greedy" (smallest overlap that a greedy search keeps; seconds to minutes), "capped" (balanced, the few
            large overlaps taken apart), "galois" (algebraic, overlap known without counting, rows by a formula; needs a
            degree of about sqrt(d_in) at most) or "polynomial" (the same over prime fields only, kept for masks that
            were made by it).
        d_in: rows of the dictionary, at most 2^24.
        n_latents: columns.
        degree: rows per column, at most d_in.
        seed: integer in [0, 2^64).

    Returns:
        A mask with rows [n_latents, degree]. Rows can stay empty (n_latents * degree < d_in, chance in a
        uniform mask, the remainder in a clustered one); `Mask.empty_rows` lists them.

    Raises:
        ExpanderSaeError: unknown construction, a size that is not positive, degree > d_in, a bad seed, or sizes
            that "polynomial", "galois" or "repaired" cannot have or "capped" cannot count.

    Example:
        >>> make_mask("balanced", d_in=512, n_latents=4096, degree=7, seed=0).right_degrees().max()
        np.int64(56)
    """
    if construction not in _BUILDERS:
        raise ExpanderSaeError(
            f"expected a construction out of {', '.join(CONSTRUCTIONS)}; got {construction!r}. "
            "Rows of your own go through mask_from_rows."
        )
    check_sizes(d_in, n_latents, degree)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
        raise ExpanderSaeError(f"expected seed to be an integer in [0, 2^64); got {seed!r}.")
    d_in, n_latents, degree, seed = int(d_in), int(n_latents), int(degree), int(seed)
    stream = CounterStream(f"{construction}|{d_in}|{n_latents}|{degree}|{seed}")
    rows = _BUILDERS[construction](d_in, n_latents, degree, stream)
    return Mask(rows, d_in=d_in, construction=construction, seed=seed)
