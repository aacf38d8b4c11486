"""Columns made flat: the nearest ones whose largest and smallest magnitude are within a factor."""

import numpy as np

from expander_sae.records import ExpanderSaeError


def flatten_columns(values: np.ndarray, beta: float) -> np.ndarray:
    """The nearest columns with ratio at most beta: magnitudes clipped to [t, beta t], signs kept, float64.

    With s the magnitudes of the column, t solves sum over s_i < t of (t - s_i) = beta sum over s_i > beta t of
    (s_i - beta t): the zero of the derivative of the squared distance, which is convex in t. Zeros become positive.

    Args:
        values: [n_latents, degree].
        beta: at least 1; 1 makes all magnitudes of a column equal.

    Raises:
        ExpanderSaeError: beta below 1, values that are no finite matrix, or a column of zeros.

    Example:
        >>> flatten_columns(np.array([[1.0, -4.0]]), 2.0).round(3).tolist()
        [[1.8, -3.6]]
    """
    values = np.asarray(values, np.float64)
    size = np.abs(values)
    _check(size, beta)
    low, high = np.zeros((len(size), 1)), size.max(axis=1, keepdims=True)
    for _ in range(64):
        middle = (low + high) / 2
        slope = np.maximum(middle - size, 0).sum(1, keepdims=True)
        slope -= beta * np.maximum(size - beta * middle, 0).sum(1, keepdims=True)
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    return np.where(values < 0, -1.0, 1.0) * np.clip(size, high, beta * high)


def _check(size: np.ndarray, beta: float) -> None:
    if not beta >= 1:
        raise ExpanderSaeError(f"expected a flatness ratio beta of at least 1; got {beta}")
    if size.ndim != 2:
        raise ExpanderSaeError(f"expected values [n_latents, degree]; got shape {size.shape}")
    if not np.isfinite(size).all():
        raise ExpanderSaeError("expected finite values to flatten; got NaN or infinity. Did training diverge?")
    zero = np.flatnonzero(~size.any(axis=1))
    if len(zero):
        raise ExpanderSaeError(f"expected columns with a non-zero value; got zeros in column {zero[0]}. Remove it.")
