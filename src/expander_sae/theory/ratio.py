"""Ratio decoding: exact without noise, useless with it; an oracle for tests of everything else."""

import numpy as np

from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .rows import mask_and_values

_SAME = 1e-9  # relative difference of ratios that count as equal


def ratio_decode(dictionary: Dictionary, y: np.ndarray, *, votes: int, rounds: int = 64) -> np.ndarray | None:
    """The code x with W x = y, or None if decoding stalls; O(n d log d) per round.

    A column is accepted with value w if `votes` of its rows carry one non-zero ratio r_i / w_ij = w; accepted terms are
    subtracted and the next round begins. With votes = lam + 1 (largest overlap plus one) an accepted column is right
    for almost every code; if eps_k < (1 - lam / d) / 2 some column always qualifies, and at most k rounds suffice.
    For generic values two votes are sound for every lam.

    Args:
        dictionary: its columns, of any length, no value zero.
        y: W x [d_in], noiseless.
        votes: equal ratios needed, 2..degree.
        rounds: give up after so many.

    Raises:
        ExpanderSaeError: votes outside 2..degree, y of another shape, or a zero value.

    Source: expander l0-decoding, Mendoza-Smith and Tanner, Appl. Comput. Harmon. Anal. 45, 2018, with real values.

    Example:
        >>> import torch
        >>> w = Dictionary(torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2), d_in=4)
        >>> ratio_decode(w, np.array([3.0, 3.0, 0.0, 0.0]), votes=2).tolist()
        [3.0, 0.0]
    """
    mask, values = mask_and_values(dictionary)
    values, y = values.astype(np.float64), np.asarray(y, np.float64)
    if not 2 <= votes <= mask.degree:
        raise ExpanderSaeError(f"expected votes from 2 to the degree {mask.degree}; got {votes}.")
    if y.shape != (mask.d_in,):
        raise ExpanderSaeError(f"expected y [{mask.d_in}]; got shape {y.shape}.")
    if not values.all():
        column = int(np.flatnonzero((values == 0).any(axis=1))[0])
        raise ExpanderSaeError(f"expected non-zero values, to divide by; got a zero in column {column}.")
    rows, x, residual = mask.rows.astype(np.int64), np.zeros(mask.n_latents), y.copy()
    floor = _SAME * np.abs(y).max(initial=0.0)
    for _ in range(rounds):
        residual[np.abs(residual) <= floor] = 0.0
        if not residual.any():
            return x
        accepted, found = _vote(residual[rows] / values, votes)
        if not len(accepted):
            return None
        x[accepted] += found
        np.subtract.at(residual, rows[accepted], found[:, None] * values[accepted])
    return None


def _vote(ratios: np.ndarray, votes: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns with `votes` equal non-zero ratios, and that ratio."""
    ordered = np.sort(ratios, axis=1)
    low, high = ordered[:, : ratios.shape[1] - votes + 1], ordered[:, votes - 1 :]
    same = (high - low <= _SAME * np.abs(high)) & (np.abs(high) > 0) & (np.abs(low) > 0)
    columns = np.flatnonzero(same.any(axis=1))
    return columns, low[columns, same[columns].argmax(axis=1)]
