"""How even the magnitudes within a column are, and what that implies for inner products and l1 mass."""

from typing import NamedTuple

import numpy as np

from expander_sae.records import ExpanderSaeError


class Flatness(NamedTuple):
    """Flatness of every column and its summary.

    Attributes:
        beta: [n_latents], largest over smallest magnitude in the column; inf where an entry is zero.
        median: of beta.
        p95: 95th percentile of beta.
        largest: maximum of beta, the one that theorems about all columns need.
    """

    beta: np.ndarray
    median: float
    p95: float
    largest: float


def unit_columns(values: np.ndarray) -> np.ndarray:
    """Columns [n_latents, degree] scaled to unit length, float64.

    Raises:
        ExpanderSaeError: not a matrix, a value that is not finite, or a column of zeros.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ExpanderSaeError(f"expected values [n_latents, degree]; got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ExpanderSaeError("expected finite values; got NaN or inf. The dictionary cannot be certified.")
    # Scaled by the largest magnitude first, so that squares can neither overflow nor vanish.
    peaks = np.abs(values).max(axis=1, keepdims=True)
    if not peaks.all():
        column = int(np.flatnonzero(peaks[:, 0] == 0)[0])
        raise ExpanderSaeError(f"expected columns with a non-zero value; got zeros in column {column}. Remove it.")
    scaled = values / peaks
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def flatness(values: np.ndarray) -> Flatness:
    """beta_j = max_i |w_ij| / min_i |w_ij| over the rows of column j; the scale of a column does not matter.

    Args:
        values: [n_latents, degree].

    Raises:
        ExpanderSaeError: see `unit_columns`.

    Source: the ratio form of the flatness condition; it implies 1 / (beta sqrt d) <= |w_ij| <= beta / sqrt d for unit
    columns.

    Example:
        >>> flatness(np.array([[1.0, -2.0], [3.0, 3.0]])).beta.tolist()
        [2.0, 1.0]
    """
    size = np.abs(unit_columns(values))
    low = size.min(axis=1)
    beta = np.where(low > 0, size.max(axis=1) / np.where(low > 0, low, 1.0), np.inf)
    # The percentile that is a value itself; between a number and inf there is nothing to interpolate.
    p95 = float(np.quantile(beta, 0.95, method="higher"))
    return Flatness(beta, float(np.quantile(beta, 0.5, method="higher")), p95, float(beta.max()))


def inner_product_bound(overlap: np.ndarray | float, degree: int, beta: float) -> np.ndarray:
    """h(o) = beta^2 o / (d + (beta^2 - 1) o): bound on |<w_i, w_j>| of unit columns that share o rows.

    The o largest squares of a column of ratio beta average at most beta^2 times the others, hence hold at most the
    share h(o) of its energy; Cauchy-Schwarz on the shared rows. Attained. h(d) = 1 and h is increasing.

    Raises:
        ExpanderSaeError: beta below 1.

    Example:
        >>> float(inner_product_bound(1, 7, 1.0).round(4))
        0.1429
    """
    _check_beta(beta)
    share = np.asarray(overlap, np.float64)
    if np.isinf(beta):
        return np.where(share > 0, 1.0, 0.0)
    return beta**2 * share / (degree + (beta**2 - 1) * share)


def mass_bound(share: float, beta: float) -> float:
    """f(u) = beta u / (1 + (beta - 1) u): the most of a column's l1 mass that a share u of its entries can hold.

    Raises:
        ExpanderSaeError: beta below 1.

    Example:
        >>> mass_bound(0.5, 3.0)
        0.75
    """
    _check_beta(beta)
    if np.isinf(beta):
        return 1.0 if share > 0 else 0.0
    return beta * share / (1 + (beta - 1) * share)


def _check_beta(beta: float) -> None:
    if not beta >= 1:
        raise ExpanderSaeError(f"expected a flatness ratio beta of at least 1; got {beta}.")
