"""Graphs small enough to enumerate, and what enumeration says about them."""

from itertools import combinations

import numpy as np
import torch

from expander_sae.graphs import Mask, mask_from_rows
from expander_sae.ops import Dictionary


def random_mask(rng: np.random.Generator, *, d_in: int, n_latents: int, degree: int) -> Mask:
    rows = np.array([rng.choice(d_in, degree, replace=False) for _ in range(n_latents)])
    return mask_from_rows(rows, d_in=d_in)


def random_size(rng: np.random.Generator) -> dict[str, int]:
    d_in = int(rng.integers(4, 11))
    return {"d_in": d_in, "n_latents": int(rng.integers(3, 10)), "degree": int(rng.integers(2, min(5, d_in) + 1))}


def flat_values(rng: np.random.Generator, mask: Mask, beta: float) -> np.ndarray:
    size = rng.uniform(1, beta, mask.rows.shape)
    return size * rng.choice([-1.0, 1.0], mask.rows.shape)


def sparse(mask: Mask, values: np.ndarray) -> Dictionary:
    return Dictionary(torch.from_numpy(mask.rows.astype(np.int64)), torch.from_numpy(values), mask.d_in)


def dense(mask: Mask, values: np.ndarray) -> np.ndarray:
    """[d_in, n_latents] with unit columns."""
    out = np.zeros((mask.d_in, mask.n_latents))
    for column, rows in enumerate(mask.rows.astype(int)):
        out[rows, column] = values[column]
    return out / np.linalg.norm(out, axis=0)


def subsets(n: int, largest: int):
    for size in range(1, largest + 1):
        for subset in combinations(range(n), size):
            yield np.array(subset)


def neighbours(mask: Mask, subset: np.ndarray) -> int:
    return len(set(mask.rows[subset].ravel().tolist()))


def stopping_distance(mask: Mask) -> float:
    for subset in subsets(mask.n_latents, mask.n_latents):
        times = np.bincount(mask.rows[subset].astype(int).ravel())
        if not (times == 1).any():
            return len(subset)
    return np.inf


def spark(w: np.ndarray) -> float:
    for subset in subsets(w.shape[1], w.shape[1]):
        if len(subset) > w.shape[0] or np.linalg.svd(w[:, subset], compute_uv=False)[-1] < 1e-9:
            return len(subset)
    return np.inf


def babel(entries: np.ndarray, p: int) -> float:
    """Largest sum of p off-diagonal entries of a row, by sorting."""
    off = entries - np.diag(np.diag(entries))
    return float(np.sort(off, axis=1)[:, ::-1][:, :p].sum(axis=1).max())


def overlaps(mask: Mask) -> np.ndarray:
    incidence = np.zeros((mask.n_latents, mask.d_in), int)
    np.put_along_axis(incidence, mask.rows.astype(int), 1, axis=1)
    return incidence @ incidence.T


def orthogonal_matching_pursuit(w: np.ndarray, y: np.ndarray, k: int, *, signed: bool = False) -> set[int]:
    chosen: list[int] = []
    residual = y
    for _ in range(k):
        score = w.T @ residual
        pick = int(np.argmax(score if signed else np.abs(score)))
        if pick in chosen:
            break
        chosen.append(pick)
        residual = y - w[:, chosen] @ np.linalg.lstsq(w[:, chosen], y, rcond=None)[0]
    return set(chosen)


def complete_graph_mask(vertices: int) -> Mask:
    """Columns are vertices, rows are edges: overlap 1 and, with values of alternating order, spark = vertices."""
    edges = list(combinations(range(vertices), 2))
    rows = np.array([[i for i, edge in enumerate(edges) if v in edge] for v in range(vertices)])
    return mask_from_rows(rows, d_in=len(edges))
