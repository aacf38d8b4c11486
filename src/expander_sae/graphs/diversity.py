"""Masks that only controls use: supports with less and less diversity, every row reachable throughout."""

from __future__ import annotations

import numpy as np

from expander_sae.graphs import Mask, make_mask, mask_from_rows
from expander_sae.records import ExpanderSaeError

DIVERSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places of the dial between disjoint blocks (0) and a balanced mask (1)."""


def banded_mask(*, d_in: int, n_latents: int, degree: int, seed: int) -> Mask:
    """Column j has the `degree` neighbouring rows from j d_in / n_latents on, around the end; the seed plays no part.

    There are min(n_latents, d_in) distinct supports, many more than blocks; but neighbours overlap in nearly all of
    their rows, so small sets of columns expand as little as distinct supports can.
    """
    starts = np.arange(n_latents, dtype=np.int64) * d_in // n_latents
    return mask_from_rows((starts[:, None] + np.arange(degree)) % d_in, d_in=d_in)


def shared_mask(*, d_in: int, n_latents: int, degree: int, seed: int) -> Mask:
    """A few supports for all columns: ceil(2 d_in / degree) balanced random ones, so that a row is in about two.

    The supports themselves are an expander's; only how many there are is not.
    """
    supports = min(n_latents, -(-2 * d_in // degree))
    few = make_mask("balanced", d_in=d_in, n_latents=supports, degree=degree, seed=seed).rows.astype(np.int64)
    dealt = np.random.default_rng(seed).permutation(np.arange(n_latents) % supports)
    return mask_from_rows(few[dealt], d_in=d_in)


def dialled_mask(diversity: float, *, d_in: int, n_latents: int, degree: int, seed: int) -> Mask:
    """Between disjoint blocks (0) and the balanced mask of the seed (1): a share of every column is exchanged.

    Every column starts on one block of a random order of the rows, as the clustered control has it, but with the last
    block filled up from the first, so that no row is left out at any degree. Then round(diversity * degree) of its
    entries are exchanged for entries of the same column of the balanced mask. Column sparsity stays `degree` at every
    place of the dial, and the most that a column shares with another falls little by little; the number of distinct
    supports does not, it jumps at the first exchange.

    Raises:
        ExpanderSaeError: `diversity` is outside 0 to 1.
    """
    if not 0 <= diversity <= 1:
        raise ExpanderSaeError(f"expected a diversity from 0 to 1, got {diversity}")
    draw = np.random.default_rng(seed)
    blocks = -(-d_in // degree)
    order = np.resize(draw.permutation(d_in), blocks * degree).reshape(blocks, degree)
    clustered = order[draw.permutation(np.arange(n_latents) % blocks)]
    target = make_mask("balanced", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed).rows.astype(np.int64)
    exchanged = round(diversity * degree)
    rows = clustered.copy()
    for column in range(n_latents):
        new = draw.permutation(np.setdiff1d(target[column], clustered[column], assume_unique=True))[:exchanged]
        # Entries that both have stay: only the others make room.
        old = draw.permutation(np.setdiff1d(clustered[column], target[column], assume_unique=True))[: len(new)]
        rows[column] = np.concatenate([np.setdiff1d(clustered[column], old, assume_unique=True), new])
    return mask_from_rows(rows, d_in=d_in)
