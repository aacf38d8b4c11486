"""Probability bounds for uniform masks: what holds for nearly every draw, whatever values are learned later.

Every function bounds the probability, over n_latents independent uniform degree-subsets of d_in rows, that some
property fails, by a sum over set sizes t of C(n, t) times the probability for t given columns. Everything is
computed as a natural logarithm, because the terms run down to e^-1000 and below.
"""

from collections.abc import Callable, Iterator
from math import ceil, inf, log
from typing import NamedTuple

import numpy as np

from .mask import check_sizes


class SizeBound(NamedTuple):
    """The largest set size whose failure probability is small enough.

    Attributes:
        size: the property holds for all sets of at most so many columns, except with probability `failure`.
        failure: bound on that probability; 0.0 where size is at most 1 (one column cannot fail).
    """

    size: int
    failure: float


def expansion_size(d_in: int, n_latents: int, degree: int, epsilon: float, *, failure: float = 0.01) -> SizeBound:
    """The largest s with P(some |S| <= s has |N(S)| <= (1 - epsilon) degree |S|) <= failure.

    The law of |N(S)| for t independent columns is exact (`neighbour_log_law`); the sum over S is a union bound.

    Args:
        d_in, n_latents, degree: sizes of the mask.
        epsilon: expansion loss, strictly between 0 and 1.
        failure: probability that may remain.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: Bah and Tanner, "Vanishingly sparse matrices and expander graphs", IEEE Trans. Information Theory 59,
    2013, with the exact law in place of their bound on it.

    Example:
        >>> expansion_size(512, 4096, 7, 0.5).size
        10
    """
    # Rounded up by a hair, so that a product that is an integer in exact arithmetic is not lost to rounding.
    return _union(d_in, n_latents, degree, lambda t: int((1 - epsilon) * degree * t + 1e-9), failure)


def hall_size(d_in: int, n_latents: int, degree: int, *, failure: float = 0.01) -> SizeBound:
    """The largest s with P(some |S| <= s has |N(S)| < |S|) <= failure.

    Where |N(S)| >= |S| for all |S| <= s, almost every choice of values makes any s columns independent.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: Hall 1935; union bound with the exact law of |N(S)|.

    Example:
        >>> hall_size(512, 4096, 7).size
        245
    """
    return _union(d_in, n_latents, degree, lambda t: t - 1, failure)


def stopping_size(d_in: int, n_latents: int, degree: int, *, failure: float = 0.01) -> SizeBound:
    """The largest s with P(some stopping set of at most s columns exists) <= failure.

    A stopping set is a non-empty set of columns that no row meets exactly once. Seen as degree i.i.d. rows
    conditioned on being distinct, t columns form one with probability at most
    (d t)! / m^(d t) * [z^(d t)] (e^z - z)^m * prod_{i < d} (1 - i / m)^-t, and a coefficient is at most
    f(z) / z^(d t) for every z > 0.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: stopping sets: Di, Proietti, Telatar, Richardson, Urbanke, IEEE Trans. Information Theory 48, 2002;
    Chernoff-type bound on the generating function.

    Example:
        >>> stopping_size(512, 4096, 7).size
        31
    """
    check_sizes(d_in, n_latents, degree)
    if degree == d_in:  # all columns are equal: any two of them are a stopping set
        return SizeBound(n_latents if n_latents == 1 else 1, 0.0)
    total = -inf
    for t, term in enumerate(stopping_log_terms(d_in, n_latents, degree), start=2):
        grown = np.logaddexp(total, term)
        if grown > log(failure):
            return SizeBound(t - 1, float(np.exp(total)))
        total = float(grown)
    return SizeBound(n_latents, float(np.exp(total)))


def stopping_log_terms(d_in: int, n_latents: int, degree: int) -> Iterator[float]:
    """log C(n, t) P(t columns form a stopping set), bounded from above as in `stopping_size`, for t = 2..n_latents."""
    distinct = float(np.log1p(-np.arange(degree) / d_in).sum())
    choose = _log_choose(n_latents)
    log_factorial, factor = float(np.log(np.arange(1, degree + 1)).sum()), degree
    for t in range(2, n_latents + 1):
        edges = degree * t
        log_factorial += float(np.log(np.arange(factor + 1, edges + 1)).sum())
        factor = edges
        term = log_factorial - edges * log(d_in) + _log_coefficient(d_in, edges) - t * distinct
        yield float(choose[t] + min(0.0, term))


def neighbour_log_law(d_in: int, degree: int, size: int) -> np.ndarray:
    """log P(|N(S)| = u) for `size` independent uniform columns, float64 [d_in + 1].

    One more column adds h new rows with the hypergeometric probability C(m - u, h) C(u, d - h) / C(m, d).

    Example:
        >>> float(np.exp(neighbour_log_law(4, 2, 2)).round(3)[2])
        0.167
    """
    law = np.full(d_in + 1, -inf)
    law[0] = 0.0
    steps = _log_steps(d_in, degree)
    for _ in range(size):
        law = _add_column(law, steps)
    return law


def _union(d_in: int, n_latents: int, degree: int, limit: Callable[[int], int], failure: float) -> SizeBound:
    """Sum C(n, t) P(|N(S_t)| <= limit(t)) over t = 2, 3, ... while the sum stays at most `failure`."""
    check_sizes(d_in, n_latents, degree)
    choose, steps = _log_choose(n_latents), _log_steps(d_in, degree)
    law = np.full(d_in + 1, -inf)
    law[degree] = 0.0
    total = -inf
    for t in range(2, n_latents + 1):
        law = _add_column(law, steps)
        tail = law[: min(limit(t), d_in) + 1]
        peak = float(tail.max())
        if peak > -inf:
            total_now = np.logaddexp(total, choose[t] + min(0.0, peak + log(float(np.exp(tail - peak).sum()))))
            if total_now > log(failure):
                return SizeBound(t - 1, float(np.exp(total)))
            total = float(total_now)
    return SizeBound(n_latents, float(np.exp(total)))


def _log_steps(d_in: int, degree: int) -> np.ndarray:
    """log of C(m - u, h) C(u, d - h) / C(m, d) at [h, u], h <= d, u <= m."""
    factorial = np.concatenate([[0.0], np.log(np.arange(1, d_in + 1)).cumsum()])

    def choose(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        inside = (bottom >= 0) & (bottom <= top)
        low = np.where(inside, bottom, 0)
        return np.where(inside, factorial[top] - factorial[low] - factorial[top - low], -inf)

    u = np.arange(d_in + 1)
    h = np.arange(degree + 1)[:, None]
    whole = factorial[d_in] - factorial[degree] - factorial[d_in - degree]
    return choose(d_in - u + 0 * h, h + 0 * u) + choose(u + 0 * h, degree - h + 0 * u) - whole


def _add_column(law: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The law of |N(S)| after one more independent column."""
    out = np.full_like(law, -inf)
    for h, step in enumerate(steps):
        np.logaddexp(out[h:], (law + step)[: len(law) - h], out=out[h:])
    return out


def _log_choose(n: int) -> np.ndarray:
    """log C(n, t) for t = 0..n."""
    steps = np.log(np.arange(n, 0, -1)) - np.log(np.arange(1, n + 1))
    return np.concatenate([[0.0], steps.cumsum()])


def _log_coefficient(d_in: int, edges: int) -> float:
    """An upper bound on log [z^edges] (e^z - z)^d_in: the minimum over z > 0 of log f(z) - edges log z.

    Convex in log z, so a golden-section search suffices; any z gives a valid bound.
    """

    def value(log_z: float) -> float:
        z = float(np.exp(log_z))
        return d_in * (z + float(np.log1p(-z * np.exp(-z)))) - edges * log_z

    low, high = -20.0, log(edges / d_in + ceil(edges / d_in) + 2.0) + 1.0
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(60):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = value(right)
    return min(at_left, at_right)
