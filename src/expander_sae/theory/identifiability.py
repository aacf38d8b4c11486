"""When a mask or a dictionary lets no two sparse codes have the same image."""

from math import ceil

import numpy as np

from expander_sae.graphs import Mask
from expander_sae.graphs.expansion import core_size, expansion_loss_bound
from expander_sae.records import ExpanderSaeError

from .flatness import mass_bound

_SLACK = 1e-9  # what rounding in float64 sums may hide


def stopping_distance_bound(overlap_babel: np.ndarray, degree: int) -> int:
    """A certified s such that every stopping set has more than s columns, so that spark(W) > s.

    In a stopping set each of the `degree` rows of a column is met by another column of the set, so
    Lam(s - 1) >= degree for the size s of the smallest one. Conversely Lam(s - 1) < degree gives "more than s".

    For every W whose non-zero pattern is the mask, whatever the values: if W x = 0 and x != 0, a row met by one column
    of supp x only would give w_ij x_j = 0. So supp x is a stopping set and spark(W) > s.

    Args:
        overlap_babel: exact Lam(p), p = 0..p_max.
        degree: rows per column.

    Source: unique-neighbour argument, as for stopping sets of LDPC codes (Di et al. 2002).

    Example:
        >>> stopping_distance_bound(np.array([0, 1, 2, 3]), 3)
        3
    """
    return int(np.searchsorted(overlap_babel, degree, side="left"))


def stopping_distance_by_core(mask: Mask, start: int, *, s_max: int) -> int:
    """The largest certified s >= start reachable by pruning (`graphs.expansion.core_size`), at most s_max.

    Args:
        mask: any mask.
        start: an s already certified.
        s_max: stop there.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> stopping_distance_by_core(mask_from_rows(np.array([[0, 1], [1, 2], [2, 3]]), d_in=4), 1, s_max=9)
        3
    """
    s = start
    while s < min(s_max, mask.n_latents) and core_size(mask, s + 1) == 0:
        s += 1
    return s


def stopping_distance_from_expansion(size: int, loss: float) -> int:
    """A lower bound on the stopping distance of an (s, eps)-expander with eps < 1/2: ceil(1 + (s - 1) / (2 eps)).

    Sets of at most s columns have unique neighbours since eps < 1/2. For a larger stopping set T, of t columns, a
    random s-subset covers on average at most d s (1 - (s - 1) / (2 (t - 1))) rows, because every row of T is met
    at least twice; expansion of all of them forces (s - 1) / (2 (t - 1)) <= eps.

    Raises:
        ExpanderSaeError: size below 1, or a loss outside [0, 1/2).

    Source: the averaging argument for the distance of expander codes, Chen, Cheng, Li, Ouyang, "Improved decoding
    of expander codes", 2021.

    Example:
        >>> stopping_distance_from_expansion(2, 1 / 14)
        8
    """
    if size < 1 or not 0 <= loss < 0.5:
        raise ExpanderSaeError(f"expected a size of at least 1 and a loss in [0, 1/2); got {size} and {loss}.")
    if size == 1:
        return 2
    if loss == 0:
        return int(1e18)
    return max(size + 1, ceil(1 + (size - 1) / (2 * loss) - _SLACK))


def generic_size(overlap_babel: np.ndarray, degree: int) -> int:
    """A certified s such that any s columns are independent for almost every choice of values on the mask.

    By Hall's theorem |N(S)| >= |S| for all |S| <= s gives a matching, so a minor is a polynomial in the
    values that is not identically zero. Cauchy-Schwarz: |N(S)| >= d s / (1 + Lam(s - 1) / d) >= s as soon as
    Lam(s - 1) <= d (d - 1).

    Args:
        overlap_babel: exact Lam(p), p = 0..p_max; the answer is at most p_max + 1.
        degree: rows per column.

    Source: Hall 1935; Edmonds 1967 for generic rank.

    Example:
        >>> generic_size(np.minimum(np.arange(60), 60), 7)
        43
    """
    return int(np.searchsorted(overlap_babel, degree * (degree - 1), side="right"))


def stable_size(overlap_babel: np.ndarray, degree: int, beta: float) -> int:
    """The largest s for which eps_s < 1 / (1 + beta) is certified from overlaps; codes with s // 2 are stable.

    Args:
        overlap_babel: exact Lam(p), p = 0..p_max.
        degree: rows per column.
        beta: flatness ratio of every column.

    Source: l1 isometry of expanders, Berinde, Gilbert, Indyk, Karloff, Strauss 2008, weighted by column norms.

    Example:
        >>> stable_size(np.arange(40), 7, 1.0)
        7
    """
    if not beta >= 1:
        raise ExpanderSaeError(f"expected a flatness ratio beta of at least 1; got {beta}.")
    loss = expansion_loss_bound(overlap_babel, degree)
    below = loss < 1 / (1 + beta) - _SLACK
    return int(len(loss) if below.all() else np.argmin(below)) - 1


def stability_constant(loss: float, beta: float) -> float:
    """c in ||W x||_1 >= c sum_j ||w_j||_1 |x_j| for |supp x| <= s: (1 - eps (1 + beta)) / (1 + eps (beta - 1)).

    Reveal the columns of supp x by falling z_j = ||w_j||_1 |x_j|. Of the first t columns at most eps d t entries hit a
    row seen before; those of one column carry at most the share `mass_bound` of its mass. Keep the first entry
    of each row, subtract the rest, and sum by parts: ||W x||_1 >= (1 - 2 f(eps)) sum z. Positive iff
    eps < 1 / (1 + beta), and neither threshold nor constant can be improved.

    Args:
        loss: eps_s, or an upper bound on it.
        beta: flatness ratio of every column.

    Returns:
        c; zero or negative values say nothing.

    Source: as `stable_size`.

    Example:
        >>> stability_constant(0.25, 2.0)
        0.19999999999999996
    """
    return 1 - 2 * mass_bound(loss, beta)


def spark_from_babel(babel: np.ndarray) -> int:
    """A certified s with spark(W) > s from value coherence: the largest s with mu_1(s - 1) < 1.

    The Gram matrix of any s columns is then strictly diagonally dominant.

    Args:
        babel: exact mu_1(p), p = 0..p_max; the answer is at most p_max + 1.

    Source: Gershgorin; Donoho and Elad, PNAS 100, 2003.

    Example:
        >>> spark_from_babel(np.array([0.0, 0.5, 1.0]))
        2
    """
    return int(np.searchsorted(babel, 1 - _SLACK, side="left"))
