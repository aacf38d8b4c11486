"""When greedy pursuit or one-shot thresholding provably finds every sparse code, and when no dictionary can pass."""

from math import sqrt

import numpy as np

from expander_sae.records import ExpanderSaeError

from .flatness import inner_product_bound

_SLACK = 1e-9  # what rounding in float64 sums may hide


def omp_k(babel: np.ndarray) -> int:
    """The largest k with mu_1(k - 1) + mu_1(k) < 1: OMP recovers every code with k active latents.

    With a = mu_1(k - 1) < 1 the Gram matrix of any k columns has an inverse of infinity norm at most 1 / (1 - a),
    so ||W_S^+ w_j||_1 <= mu_1(k) / (1 - a) < 1 for j outside S: every pick is in S, and after k picks the
    residual is zero. For codes x > 0 signed OMP and non-negative OMP recover too, matching pursuit only
    ever picks from S, and spark(W) > 2 k.

    Args:
        babel: exact mu_1(p), p = 0..p_max, or an upper bound on it; the answer is at most p_max.

    Source: Tropp, "Greed is good", 2004; matching pursuit: Gribonval and Vandergheynst 2006.

    Example:
        >>> omp_k(np.arange(6) / 7)
        3
    """
    return one_shot_k(babel, babel, 1.0)


def omp_k_from_overlap(largest_overlap: int, degree: int, beta: float) -> int:
    """The largest k with (2 k - 1) h(lam) < 1, h the bound by overlap: k < 1 + (d / lam - 1) / (2 beta^2).

    Holds for every dictionary on the mask whose columns have ratio at most beta.

    Raises:
        ExpanderSaeError: beta below 1.

    Source: `omp_k` with mu_1(p) <= p mu; attained by the edges of a complete graph with d + 1 vertices.

    Example:
        >>> omp_k_from_overlap(1, 7, 1.0)
        3
    """
    bound = float(inner_product_bound(float(largest_overlap), degree, beta))
    if bound == 0:
        return int(1e18)
    return max(0, int(np.ceil((1 + (1 - _SLACK) / bound) / 2)) - 1)


def one_shot_k(inside: np.ndarray, outside: np.ndarray, dynamic_range: float) -> int:
    """The largest k with R (inside(k - 1) + outside(k)) < 1: the k largest |W^T y| are the support of every code.

    y = W x with largest over smallest magnitude at most R. In the support |z_i| >= |x_i| - x_max mu_1(k - 1), outside
    |z_j| <= x_max mu_1(k). For x >= 0 and the k largest z, only harmful signs count: inside = the
    negative parts, outside = the positive parts of the Gram entries.

    Args:
        inside: mu_1 or its negative-part version, p = 0..p_max.
        outside: mu_1 or its positive-part version, same length.
        dynamic_range: R >= 1.

    Raises:
        ExpanderSaeError: R below 1, or lengths that differ.

    Source: Donoho, Elad, Temlyakov, IEEE Trans. Information Theory 52, 2006 (thresholding).

    Example:
        >>> one_shot_k(np.arange(6) / 7, np.arange(6) / 7, 3.0)
        1
    """
    if not dynamic_range >= 1 or len(inside) != len(outside):
        raise ExpanderSaeError(
            f"expected a dynamic range of at least 1 and sums of one length; got {dynamic_range}, "
            f"{len(inside)} and {len(outside)}."
        )
    fails = dynamic_range * (inside[:-1] + outside[1:]) >= 1 - _SLACK
    return int(np.argmax(fails)) if fails.any() else len(fails)


def omp_noise_limit(babel: np.ndarray, k: int) -> float:
    """The largest ||e||_2 / x_min OMP tolerates: (1 - mu_1(k - 1) - mu_1(k)) / 2; at most 0 says nothing.

    y = W x + e with k active latents. Stopped at the first residual of norm at most ||e||, OMP returns exactly the
    support, and the error of the code is at most ||e||_2 / sqrt(1 - mu_1(k - 1)).

    Raises:
        ExpanderSaeError: k outside 1..p_max.

    Source: Donoho, Elad, Temlyakov 2006; Cai and Wang, IEEE Trans. Information Theory 57, 2011.

    Example:
        >>> round(omp_noise_limit(np.arange(6) / 7, 2), 3)
        0.286
    """
    _check_k(babel, k)
    return float((1 - babel[k - 1] - babel[k]) / 2)


def one_shot_noise_limit(babel: np.ndarray, k: int, dynamic_range: float) -> float:
    """The largest ||W^T e||_inf / x_min thresholding tolerates: (1 - R (mu_1(k - 1) + mu_1(k))) / 2.

    Raises:
        ExpanderSaeError: k outside 1..p_max.

    Source: as `one_shot_k`.

    Example:
        >>> one_shot_noise_limit(np.zeros(4), 2, 10.0)
        0.5
    """
    _check_k(babel, k)
    return float((1 - dynamic_range * (babel[k - 1] + babel[k])) / 2)


def matching_pursuit_rate(babel: np.ndarray, k: int) -> float | None:
    """Factor by which ||residual||^2 falls at least in each step of matching pursuit; None where not guaranteed.

    1 - (1 - mu_1(k - 1)) / k, for every y = W x with k active latents, if mu_1(k - 1) + mu_1(k) < 1.

    Raises:
        ExpanderSaeError: k outside 1..p_max.

    Source: Gribonval and Vandergheynst, IEEE Trans. Information Theory 52, 2006.

    Example:
        >>> matching_pursuit_rate(np.zeros(4), 2)
        0.5
    """
    _check_k(babel, k)
    return 1 - (1 - float(babel[k - 1])) / k if k <= omp_k(babel) else None


def welch_coherence(d_in: int, n_latents: int) -> float:
    """omega = sqrt((n - m) / (m (n - 1))): no n unit vectors in m dimensions have smaller coherence; 0 for n <= m.

    Source: Welch, IEEE Trans. Information Theory 20, 1974.

    Example:
        >>> round(welch_coherence(512, 4096), 4)
        0.0413
    """
    if n_latents <= d_in:
        return 0.0
    return sqrt((n_latents - d_in) / (d_in * (n_latents - 1)))


def welch_ceiling(d_in: int, n_latents: int) -> int | None:
    """The largest k for which any dictionary of this size, dense ones too, could pass `omp_k`; None if n < 2 m.

    Some row of the Gram matrix has off-diagonal energy at least n / m - 1, and among vectors of n - 1 entries with that
    energy the sum of the k largest, k <= sqrt(n - 1), is least for the constant one: mu_1(k) >= k omega.
    So mu_1(k - 1) + mu_1(k) < 1 needs (2 k - 1) omega < 1. For k > sqrt(n - 1), n >= 2 m makes it fail too.

    Source: Welch 1974; the extension to cumulative coherence is proved in docs/concepts/what-is-guaranteed.md.

    Example:
        >>> welch_ceiling(512, 4096)
        12
    """
    if n_latents < 2 * d_in or n_latents < 5:
        return None
    omega = welch_coherence(d_in, n_latents)
    return int(np.ceil((1 + 1 / omega) / 2 - _SLACK)) - 1


def _check_k(babel: np.ndarray, k: int) -> None:
    if not 1 <= k < len(babel):
        raise ExpanderSaeError(f"expected k from 1 to {len(babel) - 1}, the largest p of the sums given; got {k}.")
