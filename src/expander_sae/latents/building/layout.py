"""A map of the latents: similar ones near each other, the same map whenever it is drawn."""

from __future__ import annotations

import numpy as np

ROUNDS = 12


def places(start: np.ndarray, nearest: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Where each latent is, float32 [n_latents, 2] in [-1, 1].

    The start is smoothed over the graph of nearest latents, weighted by max(cosine, 0), and made orthonormal again, a
    few times: the beginning of the power iteration for the graph's leading eigenvectors, stopped before small pieces
    of the graph collapse into points. Then each axis is replaced by ranks, so that the latents fill the square.

    Args:
        start: two numbers a latent, the principal directions of the columns say; [n_latents, 2].
        nearest: [n_latents, count].
        cosines: [n_latents, count].
    """
    n = len(start)
    if n < 3:
        return np.zeros((n, 2), dtype=np.float32)
    at = _orthonormal(start.astype(np.float64))
    weight = np.maximum(cosines.astype(np.float64), 0.0)
    total = weight.sum(1, keepdims=True)
    weight /= np.where(total > 0, total, 1.0)
    for _ in range(ROUNDS):
        around = np.einsum("nk,nkc->nc", weight, at[nearest])
        at = _orthonormal(0.5 * at + 0.5 * np.where(total > 0, around, at))
    ranks = at.argsort(0, kind="stable").argsort(0, kind="stable")
    return (2 * ranks / (n - 1) - 1).astype(np.float32)


def principal(second_moment: np.ndarray) -> np.ndarray:
    """The two leading directions [d_in, 2] of a matrix [d_in, d_in], the largest entry of each positive."""
    directions = np.linalg.eigh(second_moment)[1][:, ::-1][:, :2]
    if directions.shape[1] < 2:  # activations of one number
        directions = np.concatenate([directions, np.zeros_like(directions)], 1)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0)
    return directions * np.where(largest < 0, -1.0, 1.0)


def _orthonormal(at: np.ndarray) -> np.ndarray:
    """Mean 0, and the second column without the first."""
    at = at - at.mean(0)
    first = at[:, 0] / max(np.linalg.norm(at[:, 0]), 1e-30)
    second = at[:, 1] - first * (first @ at[:, 1])
    return np.stack([first, second / max(np.linalg.norm(second), 1e-30)], 1)
