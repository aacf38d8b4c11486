"""Overlaps through subsets of rows: two columns share t rows iff some t-subset of rows lies in both."""

from itertools import combinations
from math import comb

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .mask import Mask

MOST_KEYS = 1 << 28
"""Subsets of rows held at once, 2 GiB of them."""


def columns_sharing(mask: Mask, rows_shared: int) -> np.ndarray:
    """Pairs of columns that share at least `rows_shared` rows, int64 [pairs, 2], i < j, sorted, each once.

    n C(d, t) keys and a sort, no n^2: the right tool for small t and large n.

    Args:
        mask: any mask.
        rows_shared: t, 1..degree.

    Raises:
        ExpanderSaeError: t outside 1..degree, more keys than memory should hold, or d_in^t at least 2^64.

    Source: hashing of t-subsets, as in birthday-style overlap counting.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> columns_sharing(mask_from_rows(np.array([[0, 1, 2], [1, 2, 3], [3, 4, 5]]), d_in=6), 2).tolist()
        [[0, 1]]
    """
    t, n_latents = rows_shared, mask.n_latents
    if not 1 <= t <= mask.degree:
        raise ExpanderSaeError(f"expected rows_shared from 1 to the degree {mask.degree}; got {t}.")
    keys = n_latents * comb(mask.degree, t)
    if keys > MOST_KEYS or mask.d_in**t >= 1 << 64:
        raise ExpanderSaeError(
            f"expected at most {MOST_KEYS} subsets of rows, each below 2^64; got {keys} of {t} rows out of "
            f"{mask.d_in}. Count overlaps with overlap_profile instead."
        )
    rows = mask.rows.astype(np.uint64)
    words = np.empty((comb(mask.degree, t), n_latents), np.uint64)
    for number, places in enumerate(combinations(range(mask.degree), t)):
        word = rows[:, places[0]].copy()
        for place in places[1:]:
            word *= np.uint64(mask.d_in)
            word += rows[:, place]
        words[number] = word
    flat = words.ravel()
    order = np.argsort(flat, kind="stable")
    owner, sorted_words = order % n_latents, flat[order]
    pairs: list[np.ndarray] = []
    # Equal keys are neighbours; a run of r columns gives all its pairs, at distance 1, 2, ...
    distance = 1
    same = np.flatnonzero(sorted_words[1:] == sorted_words[:-1])
    while same.size:
        both = np.stack([owner[same], owner[same + distance]], axis=1)
        pairs.append(np.sort(both, axis=1))
        distance += 1
        same = same[same + distance < len(flat)]
        same = same[sorted_words[same] == sorted_words[same + distance]]
    if not pairs:
        return np.empty((0, 2), np.int64)
    return np.unique(np.concatenate(pairs), axis=0).astype(np.int64)


def duplicate_columns(mask: Mask) -> int:
    """How many columns have the same rows as an earlier one: n_latents minus the number of distinct supports. Exact.

    One 64-bit word per column is sorted first, and only columns whose words agree are compared: O(n_latents degree).

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> duplicate_columns(mask_from_rows(np.array([[0, 1], [1, 2], [0, 1], [0, 1]]), d_in=3))
        2
    """
    weights = CounterStream("duplicate columns").words(mask.degree) | np.uint64(1)
    words = np.zeros(mask.n_latents, np.uint64)
    for place in range(mask.degree):
        words += (mask.rows[:, place].astype(np.uint64) + np.uint64(1)) * weights[place]
    _, group, sizes = np.unique(words, return_inverse=True, return_counts=True)
    suspects = mask.rows[sizes[group] > 1]
    return len(suspects) - len(np.unique(suspects, axis=0))


def largest_overlap_below(mask: Mask, rows_shared: int) -> bool:
    """Whether no two columns share `rows_shared` rows or more: an exact certificate that lam < t.

    Raises:
        ExpanderSaeError: see `columns_sharing`.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> largest_overlap_below(make_mask("greedy", d_in=128, n_latents=256, degree=4, seed=0), 2)
        True
    """
    return len(columns_sharing(mask, rows_shared)) == 0
