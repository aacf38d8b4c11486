"""Thresholding on average: one support, fixed magnitudes, random signs."""

import numpy as np

from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .flatness import unit_columns
from .rows import mask_and_values


def one_shot_failure(dictionary: Dictionary, columns: np.ndarray, magnitudes: np.ndarray) -> float:
    """A bound on P(the k largest |W^T y| are not S), y = W x, |x| given, signs independent and uniform; at most 1.

    2 sum_j exp(-x_min^2 / (8 v_j)), v_j = sum over i in S, i != j, of x_i^2 <w_i, w_j>^2: thresholding succeeds if
    every interference stays below x_min / 2, and each is a sum of independent signs (Hoeffding).

    Args:
        dictionary: its columns; they are scaled to unit length here.
        columns: S, distinct.
        magnitudes: |x| on S, positive.

    Raises:
        ExpanderSaeError: magnitudes that do not fit S or are not positive; values that are not finite or have a zero
            column.

    Source: Schnass and Vandergheynst, "Average performance analysis for thresholding", IEEE Signal Processing
    Letters 14, 2007.

    Example:
        >>> import torch
        >>> one_shot_failure(Dictionary.of_matrix(torch.eye(2)), np.array([0]), np.ones(1))
        0.0
    """
    columns, magnitudes = np.asarray(columns), np.asarray(magnitudes, np.float64)
    if magnitudes.shape != columns.shape or not (magnitudes > 0).all() or not len(columns):
        raise ExpanderSaeError(
            f"expected one positive magnitude for each column of S; got shapes {columns.shape} and {magnitudes.shape}."
        )
    mask, values = mask_and_values(dictionary)
    unit, rows = unit_columns(values), mask.rows.astype(np.int64)
    support = np.zeros((len(columns), mask.d_in))
    np.put_along_axis(support, rows[columns], unit[columns], axis=1)
    energy = np.zeros(mask.n_latents)
    for i, column in enumerate(columns.tolist()):
        inner = (support[i][rows] * unit).sum(axis=1)
        inner[column] = 0.0
        energy += (magnitudes[i] * inner) ** 2
    met = energy[energy > 0]
    return float(min(1.0, 2 * np.exp(-(magnitudes.min() ** 2) / (8 * met)).sum()))
