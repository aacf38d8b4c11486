"""How many rows pairs of columns share: the exact distribution, its maximum, and its cumulative sums."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .mask import Mask

_SECONDS_PER_INCREMENT = 8e-9  # numpy, one core, caches warm; only the estimate depends on it
_SCRATCH = 1 << 22  # counters held at once
DEFAULT_BUDGET = 2_000_000_000
"""Increments spent before columns are sampled: 10 to 50 seconds on one core, longest where n_latents is large."""


@dataclass(frozen=True)
class OverlapCost:
    """What an exact count of all overlaps would take.

    Attributes:
        increments: sum over all columns of the right degrees of their rows, plus n_latents counters to clear
            for each column.
        seconds: a rough estimate on one core.
    """

    increments: int
    seconds: float


@dataclass(frozen=True)
class OverlapProfile:
    """Overlaps of the examined columns with all other columns.

    Attributes:
        largest: the largest overlap of two columns; a lower bound on it if `exact` is False.
        pairs: [degree + 1], unordered pairs of columns with each overlap; scaled up to all columns (and rounded)
            if `exact` is False.
        babel: [p_max + 1], the overlap Babel function: babel[p] is the largest sum of overlaps of one column with
            p others. A lower bound on it if `exact` is False.
        columns: how many columns were examined.
        exact: whether all were; if not, every number here is an estimate and certifies nothing.
        seconds: what it took.
    """

    largest: int
    pairs: np.ndarray
    babel: np.ndarray
    columns: int
    exact: bool
    seconds: float


def overlap_cost(mask: Mask) -> OverlapCost:
    """The cost of `overlap_profile` without sampling, before it starts.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> overlap_cost(make_mask("balanced", d_in=512, n_latents=4096, degree=7, seed=0)).increments
        18382848
    """
    degrees = mask.right_degrees()
    increments = int((degrees * degrees).sum()) + mask.n_latents * mask.n_latents
    return OverlapCost(increments, increments * _SECONDS_PER_INCREMENT)


def overlap_profile(mask: Mask, *, p_max: int = 128, budget: int = DEFAULT_BUDGET, seed: int = 0) -> OverlapProfile:
    """Count the rows that columns share, through the index from rows to the columns that use them.

    With C_v(j) the number of other columns that share at least v rows with column j, the largest sum of p
    overlaps of j is sum_v min(p, C_v(j)); its maximum over j is the overlap Babel function Lam(p), and
    Lam(1) is the largest overlap. No [n_latents, n_latents] array is held.

    Args:
        mask: any mask, learned ones too.
        p_max: the largest p wanted; sums stop growing at p = n_latents - 1.
        budget: increments to spend (see `overlap_cost`). Above it columns are sampled without replacement and
            the result is marked `exact=False`.
        seed: which columns are sampled.

    Raises:
        ExpanderSaeError: p_max or budget is below one.

    Source: Tropp, "Greed is good", IEEE Trans. Information Theory 50, 2004, for the cumulative sums.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> overlap_profile(make_mask("clustered", d_in=8, n_latents=8, degree=2, seed=0)).largest
        2
    """
    if p_max < 1 or budget < 1:
        raise ExpanderSaeError(f"expected p_max and budget of at least 1; got {p_max} and {budget}.")
    start = time.perf_counter()
    n_latents, cost = mask.n_latents, overlap_cost(mask).increments
    columns = np.arange(n_latents, dtype=np.int64)
    if cost > budget:
        size = max(1, n_latents * budget // cost)
        stream = CounterStream(f"overlap sample|{seed}")
        columns = np.sort(stream.shuffled(columns, bits=max(1, n_latents.bit_length()))[:size])
    totals = np.zeros(mask.degree + 1, np.int64)
    babel = np.zeros(p_max + 1, np.int64)
    for _, histogram in overlap_histograms(mask, columns):
        totals += histogram.sum(axis=0)
        np.maximum(babel, _top_sums(histogram, p_max), out=babel)
    exact = len(columns) == n_latents
    if exact:
        pairs = totals // 2
    else:
        pairs = np.round(totals * (n_latents / len(columns) / 2)).astype(np.int64)
    largest = int(np.flatnonzero(totals)[-1]) if totals.any() else 0
    return OverlapProfile(largest, pairs, babel, len(columns), exact, time.perf_counter() - start)


def overlap_histograms(mask: Mask, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks (columns [block], histogram [block, degree + 1]) of how many others share each number of rows."""
    for block, counts in overlap_blocks(mask, columns):
        width = mask.degree + 1
        counts[np.arange(len(block)), block] = mask.degree  # itself, taken away below
        keys = counts + (np.arange(len(block)) * width)[:, None]
        histogram = np.bincount(keys.ravel(), minlength=len(block) * width).reshape(len(block), width)
        histogram[:, mask.degree] -= 1
        yield block, histogram


def overlap_blocks(mask: Mask, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks (columns [block], counts [block, n_latents]) of the rows each listed column shares with every column."""
    starts, members = inverted_index(mask)
    per_block = max(1, _SCRATCH // mask.n_latents)
    for first in range(0, len(columns), per_block):
        block = columns[first : first + per_block]
        slot, which = gather_members(mask.rows[block].astype(np.int64), starts)
        keys = members[which]
        keys += (slot // mask.degree) * mask.n_latents
        counts = np.bincount(keys, minlength=len(block) * mask.n_latents)
        yield block, counts.reshape(len(block), mask.n_latents)


def inverted_index(mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Which columns use each row: members[starts[i] : starts[i + 1]] for row i, increasing, int64."""
    order = np.argsort(mask.rows, axis=None, kind="stable")
    starts = np.zeros(mask.d_in + 1, np.int64)
    np.cumsum(mask.right_degrees(), out=starts[1:])
    return starts, order // mask.degree


def gather_members(rows: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of `rows`, flattened, all positions of that row in the inverted index.

    Returns:
        (slot, which): position `which` in the members belongs to entry `slot` of the flattened rows.
    """
    flat = rows.ravel()
    lengths = starts[flat + 1] - starts[flat]
    slot = np.repeat(np.arange(len(flat)), lengths)
    ends = np.cumsum(lengths)
    which = np.arange(len(slot)) + (starts[flat] - (ends - lengths))[slot]
    return slot, which


def overlap_sums(mask: Mask, p: int) -> np.ndarray:
    """The largest sum of overlaps with p other columns, for every column, int64 [n_latents]."""
    sums = np.zeros(mask.n_latents, np.int64)
    for block, histogram in overlap_histograms(mask, np.arange(mask.n_latents, dtype=np.int64)):
        at_least = histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        sums[block] = np.minimum(at_least, p).sum(axis=1)
    return sums


def _top_sums(histogram: np.ndarray, p_max: int) -> np.ndarray:
    """The largest sum of the p greatest overlaps over the columns of a block, for p = 0..p_max."""
    at_least = histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # C_v, v = 1..degree
    best = np.zeros(p_max + 1, np.int64)
    for p in range(1, p_max + 1):
        best[p] = np.minimum(at_least, p).sum(axis=1).max()
    return best


def mean_largest_overlap(mask: Mask) -> float:
    """Rows that a column shares with the other column it shares most with, mean over columns."""
    total = 0
    for block, counts in overlap_blocks(mask, np.arange(mask.n_latents, dtype=np.int64)):
        counts[np.arange(len(block)), block] = -1  # not with itself
        total += int(counts.max(axis=1).sum())
    return total / mask.n_latents
