"""Coherence and cumulative coherence of a sparse dictionary, exactly, through its sparse Gram matrix."""

import time
from dataclasses import dataclass

import numpy as np

from expander_sae.graphs.counter import CounterStream
from expander_sae.graphs.overlap import DEFAULT_BUDGET, gather_members, inverted_index, overlap_cost
from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .flatness import inner_product_bound, unit_columns
from .rows import mask_and_values

_SCRATCH = 1 << 21  # Gram entries held at once


@dataclass(frozen=True)
class Coherence:
    """Cumulative sums of the largest inner products of each column with others.

    Attributes:
        babel: [p_max + 1]; babel[p] = mu_1(p) = max_j of the sum of the p largest |<w_i, w_j>|, i != j.
        positive: [p_max + 1], the same for the positive parts of <w_i, w_j>.
        negative: [p_max + 1], the same for the negative parts.
        per_column: [columns, p_max + 1], the sums whose maximum is `babel`; None unless asked for.
        columns: how many columns were examined.
        exact: whether all were; a sample gives a lower bound on mu_1, which refutes but does not certify.
        seconds: what it took.
    """

    babel: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    per_column: np.ndarray | None
    columns: int
    exact: bool
    seconds: float

    @property
    def coherence(self) -> float:
        """mu = max over i != j of |<w_i, w_j>|."""
        return float(self.babel[1])


def dictionary_coherence(
    dictionary: Dictionary,
    *,
    p_max: int = 64,
    budget: int = DEFAULT_BUDGET // 2,
    seed: int = 0,
    per_column: bool = False,
) -> Coherence:
    """mu_1(p) for p <= p_max of the dictionary with unit columns, from blocks of rows of its Gram matrix.

    Each Gram row is summed over the index from rows to columns, O(degree * mean right degree) products, and its p_max
    largest entries selected.

    Args:
        dictionary: its columns; they are scaled to unit length here.
        p_max: largest p; clipped to n_latents - 1, beyond which the sums are constant.
        budget: products to spend; above it columns are sampled and the result is marked `exact=False`.
        seed: which columns are sampled.
        per_column: keep the sums of every examined column.

    Raises:
        ExpanderSaeError: values are not finite or have a zero column; p_max or budget below 1.

    Source: Tropp, "Greed is good", IEEE Trans. Information Theory 50, 2004.

    Example:
        >>> import torch
        >>> w = Dictionary(torch.tensor([[0, 1], [1, 2], [0, 2]]), torch.ones(3, 2), d_in=3)
        >>> dictionary_coherence(w, p_max=2).babel.round(6).tolist()
        [0.0, 0.5, 1.0]
    """
    if p_max < 1 or budget < 1:
        raise ExpanderSaeError(f"expected p_max and budget of at least 1; got {p_max} and {budget}.")
    start = time.perf_counter()
    mask, values = mask_and_values(dictionary)
    values, n_latents = unit_columns(values), mask.n_latents
    columns = np.arange(n_latents, dtype=np.int64)
    cost = overlap_cost(mask).increments
    if cost > budget:
        size = max(1, n_latents * budget // cost)
        stream = CounterStream(f"coherence sample|{seed}")
        columns = np.sort(stream.shuffled(columns, bits=max(1, n_latents.bit_length()))[:size])
    starts, members = inverted_index(mask)
    order = np.argsort(mask.rows, axis=None, kind="stable")
    weights = values.ravel()[order]
    best = np.zeros((3, p_max + 1))
    kept: list[np.ndarray] = []
    per_block = max(1, _SCRATCH // n_latents)
    for first in range(0, len(columns), per_block):
        block = columns[first : first + per_block]
        slot, which = gather_members(mask.rows[block].astype(np.int64), starts)
        keys = members[which] + (slot // mask.degree) * n_latents
        products = weights[which] * values[block].ravel()[slot]
        gram = np.bincount(keys, products, minlength=len(block) * n_latents).reshape(len(block), n_latents)
        gram[np.arange(len(block)), block] = 0.0
        sums = largest_sums(np.abs(gram), p_max)
        np.maximum(best[0], sums.max(axis=0), out=best[0])
        np.maximum(best[1], largest_sums(np.maximum(gram, 0), p_max).max(axis=0), out=best[1])
        np.maximum(best[2], largest_sums(np.maximum(-gram, 0), p_max).max(axis=0), out=best[2])
        if per_column:
            kept.append(sums)
    return Coherence(
        *best,
        per_column=np.concatenate(kept) if per_column else None,
        columns=len(columns),
        exact=len(columns) == n_latents,
        seconds=time.perf_counter() - start,
    )


def largest_sums(entries: np.ndarray, p_max: int) -> np.ndarray:
    """Sums of the p largest of each row of non-negative `entries` [rows, n], p = 0..p_max: [rows, p_max + 1].

    Example:
        >>> largest_sums(np.array([[3.0, 1.0, 2.0]]), 4).tolist()
        [[0.0, 3.0, 5.0, 6.0, 6.0]]
    """
    rows, n = entries.shape
    top = min(p_max, n)
    part = np.partition(entries, n - top, axis=1)[:, n - top :] if top < n else entries
    sums = np.zeros((rows, p_max + 1))
    sums[:, 1 : top + 1] = np.sort(part, axis=1)[:, ::-1].cumsum(axis=1)
    sums[:, top + 1 :] = sums[:, top : top + 1]
    return sums


def babel_from_overlaps(overlap_babel: np.ndarray, degree: int, beta: float) -> np.ndarray:
    """Upper bound on mu_1(p) for every dictionary on the mask with flatness beta: p h(Lam(p) / p).

    h, the bound on an inner product by the overlap, is concave, so p of them sum to at most p h(mean overlap).

    Args:
        overlap_babel: exact Lam(p), p = 0..p_max (`OverlapProfile.babel`).
        degree: rows per column.
        beta: flatness ratio of every column.

    Raises:
        ExpanderSaeError: beta below 1.

    Source: Cauchy-Schwarz and Jensen.

    Example:
        >>> babel_from_overlaps(np.array([0, 1, 2]), 7, 1.0).round(3).tolist()
        [0.0, 0.143, 0.286]
    """
    p = np.arange(len(overlap_babel))
    share = np.divide(overlap_babel, p, out=np.zeros(len(p)), where=p > 0)
    return p * inner_product_bound(share, degree, beta)
