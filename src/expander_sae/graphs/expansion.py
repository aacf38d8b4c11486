"""Expansion of a given mask: certified lower bounds on |N(S)|, and the spectral bound beside them."""

from typing import NamedTuple

import numpy as np

from expander_sae.records import ExpanderSaeError

from .mask import Mask
from .overlap import inverted_index, overlap_sums


def expansion_loss_bound(babel: np.ndarray, degree: int) -> np.ndarray:
    """Upper bounds on eps_s = max over |S| <= s of 1 - |N(S)| / (degree |S|), float64 [len(babel) + 1] by s.

    Bonferroni: |N(S)| >= d s - s Lam(s - 1) / 2. Cauchy-Schwarz on the number of times each row is met:
    |N(S)| >= d s / (1 + Lam(s - 1) / d). Entry s is the smaller loss of the two; entry 0 is 0.

    Args:
        babel: exact overlap Babel function, `OverlapProfile.babel`; a sampled one certifies nothing.
        degree: rows per column.

    Source: Bonferroni and Cauchy-Schwarz inequalities.

    Example:
        >>> expansion_loss_bound(np.array([0, 1, 2]), 7).round(3).tolist()
        [0.0, 0.0, 0.071, 0.143]
    """
    share = np.concatenate([[0.0], babel / degree])
    return np.minimum(share / 2, share / (1 + share))


def core_size(mask: Mask, s: int) -> int:
    """How many columns could lie in a stopping set of at most s columns; 0 certifies that there is none.

    In a stopping set every row of a column is met by another column of the set, so its overlaps with the set sum
    to at least `degree`. Columns whose s - 1 largest overlaps among the survivors sum to less are removed, until
    nothing changes.

    Args:
        mask: any mask.
        s: size of stopping set to rule out.

    Raises:
        ExpanderSaeError: s is below 1.

    Source: k-core pruning (Seidman 1983) with overlaps as weights.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> core_size(mask_from_rows(np.array([[0, 1], [1, 2], [0, 2], [3, 4]]), d_in=5), 3)
        3
    """
    if s < 1:
        raise ExpanderSaeError(f"expected s of at least 1; got {s}.")
    rows = mask.rows
    while len(rows):
        survivors = Mask(rows, d_in=mask.d_in, construction="rows", seed=None)
        keep = overlap_sums(survivors, s - 1) >= mask.degree
        if keep.all():
            break
        rows = rows[keep]
    return len(rows)


class SpectralExpansion(NamedTuple):
    """The spectrum that bounds |N(S)| from below.

    Attributes:
        second_eigenvalue: the largest eigenvalue of A A^T - D D^T / n, A the incidence matrix and D the right
            degrees; the second eigenvalue of A A^T if all right degrees are equal.
        gap: 1 - second_eigenvalue / (d mean right degree); 1 would be perfect.
        degree_square: sum of squares of the right degrees.
        unevenness: ||A^T D - its mean||_2; zero if all right degrees are equal.
        n_latents: columns.
        degree: rows per column.
    """

    second_eigenvalue: float
    gap: float
    degree_square: float
    unevenness: float
    n_latents: int
    degree: int

    def neighbours(self, size: int) -> float:
        """A lower bound on |N(S)| for |S| = size.

        |N(S)| >= (d s)^2 / ||A 1_S||^2 and, with 1_S = (s / n) 1 + v, v orthogonal to 1,
        ||A 1_S||^2 <= (s / n)^2 ||D||^2 + 2 (s / n) unevenness ||v|| + second_eigenvalue ||v||^2.
        """
        share = size / self.n_latents
        rest = size * (1 - share)
        met = share**2 * self.degree_square + 2 * share * self.unevenness * rest**0.5 + self.second_eigenvalue * rest
        return (self.degree * size) ** 2 / met

    def loss(self, size: int) -> float:
        """An upper bound on 1 - |N(S)| / (d |S|) for |S| = size; at least 1 - d_in / n or so when n >> d_in."""
        return max(0.0, 1 - self.neighbours(size) / (self.degree * size))


def spectral_expansion(mask: Mask) -> SpectralExpansion:
    """Tanner's spectral bound, for masks with unequal right degrees too. O(d_in^3 + n_latents degree^2).

    For overcomplete masks it is nearly always vacuous: trace(A A^T) = n d forces the second eigenvalue up to
    about n d / m, and then |N(S)| >= (m / n) d s or so is all that follows.

    Source: Tanner, "Explicit concentrators from generalized N-gons", SIAM J. Algebraic Discrete Methods 5, 1984.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> spectral_expansion(make_mask("balanced", d_in=64, n_latents=512, degree=5, seed=0)).loss(10) > 0.5
        True
    """
    n_latents, d_in = mask.n_latents, mask.d_in
    together = np.zeros(d_in * d_in)
    step = max(1, (1 << 22) // mask.degree**2)
    for first in range(0, n_latents, step):
        part = mask.rows[first : first + step].astype(np.int64)
        pairs = (part[:, :, None] * d_in + part[:, None, :]).ravel()
        together += np.bincount(pairs, minlength=d_in * d_in)
    degrees = mask.right_degrees().astype(np.float64)
    seen = degrees[mask.rows.astype(np.int64)].sum(axis=1)
    spread = together.reshape(d_in, d_in) - np.outer(degrees, degrees) / n_latents
    second = float(np.linalg.eigvalsh(spread)[-1]) * (1 + 1e-9) + 1e-9  # rounding must not make it a false bound
    mean = n_latents * mask.degree / d_in
    unevenness = float(np.linalg.norm(seen - seen.mean()))
    return SpectralExpansion(
        second, 1 - second / (mask.degree * mean), float(degrees @ degrees), unevenness, n_latents, mask.degree
    )


def spectral_loss_floor(mask: Mask, size: int) -> float:
    """No smaller loss than this can come out of `spectral_expansion(mask).loss(size)`, known without eigenvalues.

    The largest of d_in eigenvalues is at least their mean, trace(A A^T - D D^T / n) / d_in.

    Raises:
        ExpanderSaeError: size outside 1..n_latents.

    Source: the trace, as in the Alon-Boppana argument.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> spectral_loss_floor(make_mask("balanced", d_in=64, n_latents=512, degree=5, seed=0), 10) > 0.8
        True
    """
    n_latents, degree = mask.n_latents, mask.degree
    if not 1 <= size <= n_latents:
        raise ExpanderSaeError(f"expected a size from 1 to {n_latents}; got {size}.")
    square = float((mask.right_degrees().astype(np.float64) ** 2).sum())
    mean = (n_latents * degree - square / n_latents) / mask.d_in
    share = size / n_latents
    met = share**2 * square + mean * size * (1 - share)
    return max(0.0, 1 - degree * size / met) if met > 0 else 0.0


def is_stopping_set(mask: Mask, columns: np.ndarray) -> bool:
    """Whether the set is non-empty and no row is used by exactly one of its columns.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> is_stopping_set(mask_from_rows(np.array([[0, 1], [1, 2], [0, 2]]), d_in=3), np.arange(3))
        True
    """
    if len(columns) == 0:
        return False
    return not (np.unique(mask.rows[columns], return_counts=True)[1] == 1).any()


def unpeeled(mask: Mask, columns: np.ndarray) -> np.ndarray:
    """What is left after repeatedly removing columns that own a row no other column of the set uses.

    The union of all stopping sets inside the given one; empty iff there is none.
    """
    columns = np.asarray(columns, np.int64)
    while columns.size:
        rows = mask.rows[columns].astype(np.int64)
        alone = np.bincount(rows.ravel(), minlength=mask.d_in) == 1
        keep = ~alone[rows].any(axis=1)
        if keep.all():
            break
        columns = columns[keep]
    return columns


def row_members(mask: Mask) -> list[np.ndarray]:
    """For every row, the columns that use it."""
    starts, members = inverted_index(mask)
    return np.split(members, starts[1:-1])
