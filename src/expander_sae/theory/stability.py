"""Stable, non-negative and l1 recovery: what expansion gives beyond uniqueness."""

from collections.abc import Callable
from math import ceil, floor, sqrt

import numpy as np

from expander_sae.graphs.expansion import expansion_loss_bound
from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .flatness import mass_bound, unit_columns
from .rows import mask_and_values

_SLACK = 1e-9  # what rounding in float64 sums may hide


def distance_factor(loss: float, beta: float, degree: int) -> float | None:
    """F in ||x - x'||_1 <= F ||W (x - x')||_1 for |supp (x - x')| <= s; None where nothing is certified.

    F = (1 + beta) / (2 sqrt(beta d)) / c with c the `stability_constant` at eps_s: a unit column of ratio beta has
    ||w||_1 >= 2 sqrt(beta d) / (1 + beta). For two codes of k active latents take s = 2 k.

    Args:
        loss: eps_s, or an upper bound on it.
        beta: flatness ratio of every column.
        degree: rows per column.

    Source: l1 isometry of expanders, Berinde et al. 2008, weighted by column norms; Cauchy-Schwarz with both ends.

    Example:
        >>> distance_factor(0.0, 1.0, 4)
        0.5
    """
    constant = 1 - 2 * mass_bound(loss, beta)
    return None if constant <= _SLACK else (1 + beta) / (2 * sqrt(beta * degree)) / constant


def mass_profile(values: np.ndarray) -> np.ndarray:
    """tau(c), c = 0..d: a concave bound on the share of l1 mass in the c largest entries of any column, [degree + 1].

    The least concave majorant of max_j tau_j(c). It uses the values themselves where `mass_bound` uses their ratio, so
    1 - 2 tau(eps d) is never below `stability_constant` at the dictionary's beta.

    Args:
        values: [n_latents, degree].

    Raises:
        ExpanderSaeError: see `flatness.unit_columns`.

    Source: as `distance_factor`.

    Example:
        >>> mass_profile(np.ones((2, 4))).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    size = np.sort(np.abs(unit_columns(values)), axis=1)[:, ::-1]
    shares = (size.cumsum(axis=1) / size.sum(axis=1, keepdims=True)).max(axis=0)
    points = np.concatenate([[0.0], shares])
    hull = [0]
    for c in range(1, len(points)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (points[b] - points[a]) * (c - b) > (points[c] - points[b]) * (b - a):
                break
            hull.pop()
        hull.append(c)
    return np.interp(np.arange(len(points)), hull, points[hull])


def profile_constant(loss: float, profile: np.ndarray) -> float:
    """c = 1 - 2 tau(eps d) in ||W x||_1 >= c sum_j ||w_j||_1 |x_j|, from the values; zero or less says nothing.

    Args:
        loss: eps_s, or an upper bound on it, in [0, 1].
        profile: of `mass_profile`.

    Source: as `distance_factor`.

    Example:
        >>> profile_constant(0.25, mass_profile(np.ones((2, 4))))
        0.5
    """
    return 1 - 2 * _profile_at(loss, profile)


def weighted_loss(dictionary: Dictionary, columns: np.ndarray) -> float:
    """eps_w of one set of columns: 1 - (1/|S|) sum over rows of the smallest share |w_rj| / ||w_j||_1 that meets it.

    If eps_w of every subset of S is at most e, then ||W x||_1 >= (1 - 2 e) sum_j ||w_j||_1 |x_j| for codes on S.

    Args:
        dictionary: its columns, of any length.
        columns: a non-empty set of columns.

    Raises:
        ExpanderSaeError: no column, or values that `flatness.unit_columns` refuses.

    Source: as `distance_factor`, with values in place of counts.

    Example:
        >>> import torch
        >>> w = Dictionary(torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2), d_in=3)
        >>> weighted_loss(w, np.array([0, 1]))
        0.25
    """
    if not len(columns):
        raise ExpanderSaeError("expected at least one column; got none.")
    mask, values = mask_and_values(dictionary)
    size = np.abs(unit_columns(values[columns]))
    share = (size / size.sum(axis=1, keepdims=True)).ravel()
    least = np.full(mask.d_in, np.inf)
    np.minimum.at(least, mask.rows[columns].astype(np.int64).ravel(), share)
    return float(1 - least[np.isfinite(least)].sum() / len(columns))


def stable_size_of_profile(overlap_babel: np.ndarray, degree: int, profile: np.ndarray) -> int:
    """The largest s with 1 - 2 tau(eps_s d) > 0 certified from overlaps and the values' own profile.

    Args:
        overlap_babel: exact Lam(p), p = 0..p_max.
        degree: rows per column.
        profile: of `mass_profile`.

    Source: as `distance_factor`.

    Example:
        >>> stable_size_of_profile(np.arange(40), 7, mass_profile(np.ones((1, 7))))
        7
    """
    losses = expansion_loss_bound(overlap_babel, degree)
    return _largest(len(losses) - 1, lambda s: 2 * _profile_at(float(losses[s]), profile) < 1 - _SLACK)


def nonnegative_k(losses: np.ndarray) -> int:
    """The largest k for which every x >= 0 with k active latents is the only non-negative solution, if values are > 0.

    Needs an (s, eps)-expander with eps < 1/2 and s >= floor(k / (1 - eps)) + 1; flatness is not needed. For z in the
    kernel with signs S+ and S-, positivity gives N(S+) = N(S-), so S+ and S- together form a stopping set of more
    than s columns, and s of them meet at most d k rows, fewer than expansion says.

    Args:
        losses: upper bounds on eps_s by s = 0..s_max.

    Source: Khajehnejad, Dimakis, Xu, Hassibi, "Sparse recovery of nonnegative signals with minimal expansion", IEEE
    Trans. Signal Processing 59, 2011; Bruckstein, Elad, Zibulevsky 2008.

    Example:
        >>> nonnegative_k(np.array([0, 0, 0.1, 0.2]))
        2
    """
    best = 0
    for s in range(1, len(losses)):
        if losses[s] < 0.5 - _SLACK:
            k = ceil(s * (1 - losses[s]) - _SLACK) - 1
            while k > 0 and floor(k / (1 - losses[s]) + _SLACK) + 1 > s:
                k -= 1
            best = max(best, k)
    return best


def l1_recovery_k(losses: np.ndarray, beta: float) -> int:
    """The largest k for which weighted l1 finds every code of k active latents: 2 f(2 eps_2k) + 2 f(eps_2k) < 1.

    Every such x is the only minimiser of sum_j ||w_j||_1 |x_j| subject to W x = y; flat columns need eps_2k < 1/6.

    Args:
        losses: upper bounds on eps_s by s = 0..s_max.
        beta: flatness ratio of every column.

    Raises:
        ExpanderSaeError: beta below 1.

    Source: null-space property of expanders, Berinde et al. 2008, weighted by column norms.

    Example:
        >>> l1_recovery_k(np.array([0, 0, 0.07, 0.14, 0.2]), 1.0)
        1
    """

    def holds(k: int) -> bool:
        loss = float(losses[2 * k])
        return 2 * loss <= 1 and 2 * mass_bound(2 * loss, beta) + 2 * mass_bound(loss, beta) < 1 - _SLACK

    return _largest((len(losses) - 1) // 2, holds)


def babel_from_expansion(losses: np.ndarray, beta: float) -> np.ndarray:
    """Upper bound on mu_1(p) from expansion: beta^2 eps (p + 1) / (1 + eps (1 + 1/p) (beta^2 - 1)), eps = eps_(p+1).

    The edges of p columns into N(j) are collisions, so their overlaps with j sum to at most eps d (p + 1); and the
    bound of an inner product by the overlap is concave.

    Args:
        losses: upper bounds on eps_s by s = 0..s_max.
        beta: flatness ratio of every column.

    Returns:
        float64 [s_max], by p = 0..s_max - 1.

    Raises:
        ExpanderSaeError: beta below 1.

    Source: collision counting; Jensen.

    Example:
        >>> babel_from_expansion(np.array([0, 0, 0.1, 0.2]), 1.0).round(3).tolist()
        [0.0, 0.2, 0.6]
    """
    if not beta >= 1:
        raise ExpanderSaeError(f"expected a flatness ratio beta of at least 1; got {beta}.")
    p = np.arange(len(losses) - 1)
    loss = np.asarray(losses, np.float64)[1:]
    share = np.divide(1, p, out=np.zeros(len(p)), where=p > 0)
    out = beta**2 * loss * (p + 1) / (1 + loss * (1 + share) * (beta**2 - 1))
    return np.where(p > 0, out, 0.0)


def _profile_at(loss: float, profile: np.ndarray) -> float:
    return float(np.interp(min(1.0, loss) * (len(profile) - 1), np.arange(len(profile)), profile))


def _largest(top: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `top` such that `holds` for it and all smaller positive ones."""
    reach = 0
    while reach < top and holds(reach + 1):
        reach += 1
    return reach
