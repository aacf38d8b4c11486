"""The exact expected number of stopping sets of a uniform mask, in whole numbers."""

from fractions import Fraction
from math import comb, exp, factorial

from .mask import check_sizes
from .random_masks import SizeBound, stopping_log_terms, stopping_size

_EXACT_SIZES = 6  # set sizes below the first one that the closed form cannot afford; smaller ones hardly count
_MOST_EDGES = 420  # degree * size beyond which whole numbers take minutes
_TINY = 1e-12  # covers the rounding of the closed form's logarithms and of the conversion to float


def expected_stopping_sets(d_in: int, n_latents: int, degree: int, size: int) -> Fraction:
    """E of the number of stopping sets of exactly `size` columns, over i.i.d. uniform columns.

    C(n, t) C(m, d)^-t sum_i (-1)^i C(m, i) i! [u^i] (sum_a C(m - i, d - a) u^a / a!)^t: inclusion and exclusion over
    the rows met exactly once. O((d t)^2 d) products of whole numbers.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: first moment; Di, Proietti, Telatar, Richardson, Urbanke, IEEE Trans. Information Theory 48, 2002.

    Example:
        >>> expected_stopping_sets(4, 2, 2, 2)
        Fraction(1, 6)
    """
    check_sizes(d_in, n_latents, degree)
    scale = factorial(degree)
    total = 0
    for i in range(min(d_in, degree * size) + 1):
        # a counts the entries of one column among the i rows met once; times d! everything is a whole number.
        counts = [comb(d_in - i, degree - a) * scale // factorial(a) for a in range(degree + 1)]
        total += (-1) ** i * comb(d_in, i) * factorial(i) * _power_coefficient(counts, size, i)
    return Fraction(comb(n_latents, size) * total, comb(d_in, degree) ** size * scale**size)


def stopping_size_exact(d_in: int, n_latents: int, degree: int, *, failure: float = 0.01) -> SizeBound:
    """`random_masks.stopping_size` with exact expectations for the sizes that decide.

    Small sets keep the closed form, which is ample there; where whole numbers would take minutes, so do all.

    Raises:
        ExpanderSaeError: sizes that no mask can have.

    Source: as `expected_stopping_sets`; union bound.

    Example:
        >>> stopping_size_exact(512, 4096, 7).size
        34
    """
    closed = stopping_size(d_in, n_latents, degree, failure=failure)
    first = max(2, closed.size - _EXACT_SIZES)
    if closed.size <= 1 or closed.size >= n_latents or degree * (closed.size + 8) > _MOST_EDGES:
        return closed
    terms = stopping_log_terms(d_in, n_latents, degree)
    total = sum(exp(min(0.0, next(terms))) for _ in range(2, first)) * (1 + _TINY)
    size = first - 1
    while size < n_latents and degree * (size + 1) <= _MOST_EDGES + 8 * degree:
        grown = total + float(expected_stopping_sets(d_in, n_latents, degree, size + 1)) * (1 + _TINY)
        if grown > failure:
            break
        total, size = grown, size + 1
    return SizeBound(size, total) if size > closed.size else closed


def _power_coefficient(counts: list[int], power: int, i: int) -> int:
    """[u^i] (sum_a counts[a] u^a)^power, by the recurrence that P Q' = power P' Q gives for Q = P^power."""
    low = next((a for a, count in enumerate(counts) if count), None)
    if low is None or i < low * power:
        return 0
    lead, rest = counts[low], counts[low:]
    q = [lead**power]
    for j in range(1, i - low * power + 1):
        # The division leaves no remainder: Q has whole coefficients.
        terms = (((a * power - (j - a)) * rest[a] * q[j - a]) for a in range(1, min(j, len(rest) - 1) + 1))
        q.append(sum(terms) // (j * lead))
    return q[-1]
