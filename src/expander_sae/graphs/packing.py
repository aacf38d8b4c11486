"""How small the overlap of any two columns of a mask can be at all."""

from math import comb

from .mask import check_sizes


def packing_bound(d_in: int, degree: int, overlap: int) -> int | None:
    """The most columns a mask can have if no two of them share more than `overlap` rows; None for no limit.

    Johnson's bound: floor(m/d floor((m-1)/(d-1) ... floor((m-t+1)/(d-t+1)))) with t = overlap + 1. A row lies
    in at most as many columns as a mask of d_in - 1 rows, degree - 1 and overlap - 1 can have, and counting
    (row, column) pairs gives one factor. With degree <= overlap columns may repeat and there is no limit.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: Johnson, "A new upper bound for error-correcting codes", IRE Trans. Information Theory 8, 1962.

    Example:
        >>> packing_bound(512, 7, 1)
        6217
    """
    check_sizes(d_in, 1, degree)
    if overlap >= degree:
        return None
    columns = 1
    for step in range(overlap, -1, -1):
        columns = (d_in - step) * columns // (degree - step)
    return columns


def smallest_possible_overlap(d_in: int, n_latents: int, degree: int) -> int:
    """No mask of these sizes has a smaller maximal overlap: the larger of the packing and the averaging bound.

    Packing: the first overlap whose `packing_bound` reaches n_latents. Averaging: the right degrees sum to n d,
    so the pairs of columns share at least sum_i C(D_i, 2) rows, least when all D_i are floor or ceil of n d / m,
    and the largest overlap is at least the mean.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: Johnson 1962; convexity.

    Example:
        >>> smallest_possible_overlap(512, 4096, 7)
        1
    """
    check_sizes(d_in, n_latents, degree)
    if n_latents == 1:
        return 0
    every, extra = divmod(n_latents * degree, d_in)
    shared = (d_in - extra) * comb(every, 2) + extra * comb(every + 1, 2)
    overlap = -(-shared // comb(n_latents, 2))
    while (bound := packing_bound(d_in, degree, overlap)) is not None and bound < n_latents:
        overlap += 1
    return overlap
