"""The geometry of one dictionary in numbers: flatness, coherence, expansion and row crowding, as in the paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from expander_sae.graphs import Mask
from expander_sae.graphs.adversary import find_bad_expansion
from expander_sae.graphs.overlap import overlap_blocks, overlap_profile
from expander_sae.ops import Dictionary

from .coherence import dictionary_coherence
from .flatness import flatness
from .rows import mask_and_values

_SETS = 1000  # random sets of the paper's estimate
_RESTARTS = 30  # greedy builds of it


def diagnose(dictionary: Dictionary, k: int) -> dict[str, Any]:
    """Every number of one dictionary; epsilon(s) at s = k + 1 and 2k by counting and by three searches for bad sets.

    The searches find sets, so they bound expansion from above; R_OMP = b^2 eps(k + 1)(2k + 1) and R_id = 2 b^2 eps(2k),
    b = max sqrt(d) |w_ij|, are the paper's and would have to be below one.
    """
    mask, values = mask_and_values(dictionary)
    flat, degrees = flatness(values), mask.right_degrees()
    unit = np.abs(values) / np.linalg.norm(values, axis=1, keepdims=True)
    scaled = np.sqrt(mask.degree) * unit.max(axis=1)
    coherence = dictionary_coherence(dictionary, p_max=k)
    overlaps = overlap_profile(mask, p_max=1)
    mean = degrees.mean()
    losses = {f"epsilon_{size}": _losses(mask, s) for size, s in (("k1", k + 1), ("2k", 2 * k))}
    worst = {size: max(found.values()) for size, found in losses.items()}
    peak = float(scaled.max()) ** 2
    return {
        "degree": mask.degree,
        "ratio_median": flat.median, "ratio_p95": flat.p95, "ratio_max": flat.largest,
        "beta_median": float(np.median(scaled)), "beta_p95": float(np.quantile(scaled, 0.95)),
        "beta_max": float(scaled.max()),
        "mu": coherence.coherence, "mu1_k": float(coherence.babel[k]), "coherence_exact": coherence.exact,
        "largest_overlap": overlaps.largest, "overlap_exact": overlaps.exact,
        "row_degree_max": float(degrees.max() / mean), "row_degree_p95": float(np.quantile(degrees, 0.95) / mean),
        "empty_rows": int((degrees == 0).sum()),
        **losses,
        "R_OMP": peak * worst["epsilon_k1"] * (2 * k + 1), "R_id": 2 * peak * worst["epsilon_2k"],
    }  # fmt: skip


def _losses(mask: Mask, s: int) -> dict[str, float]:
    s = min(s, mask.n_latents)
    draw = np.random.default_rng(0)
    fewest = min(
        np.unique(mask.rows[draw.choice(mask.n_latents, s, replace=False)]).size for _ in range(_SETS)
    )  # fmt: skip
    return {
        "counting": max(0.0, 1 - mask.d_in / (mask.degree * s)),
        "random": 1 - fewest / (mask.degree * s),
        "greedy": float(find_bad_expansion(mask, s_max=s, restarts=_RESTARTS).loss[-1]),
        "top_overlap": _top_overlap_loss(mask, s),
    }


def _top_overlap_loss(mask: Mask, s: int) -> float:
    """The worst of each column with the s - 1 columns that share most rows with it."""
    fewest = mask.d_in
    for block, counts in overlap_blocks(mask, np.arange(mask.n_latents, dtype=np.int64)):
        counts[np.arange(len(block)), block] = mask.degree + 1  # itself first
        chosen = np.argpartition(counts, counts.shape[1] - s, axis=1)[:, -s:]
        for columns in chosen:
            fewest = min(fewest, np.unique(mask.rows[columns]).size)
    return 1 - fewest / (mask.degree * s)
