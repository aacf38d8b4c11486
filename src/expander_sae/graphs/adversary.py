"""Searches for bad sets of columns: what they find bounds expansion and stopping distance from the other side."""

from typing import NamedTuple

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .expansion import is_stopping_set, row_members, unpeeled
from .mask import Mask


class FoundExpansion(NamedTuple):
    """The worst sets found; certified as upper bounds on expansion, since the sets are there.

    Attributes:
        loss: [min(s_max, n_latents) + 1], the largest 1 - |N(S)| / (degree |S|) found over sets of at most s columns.
        half_size: the smallest set found with loss of at least 1/2; None if none was.
    """

    loss: np.ndarray
    half_size: int | None


def find_bad_expansion(mask: Mask, *, s_max: int, restarts: int = 16, seed: int = 0) -> FoundExpansion:
    """Grow sets greedily, always by a column that brings the fewest new rows, ties at random; then exchange columns.

    The largest set with fewest rows is improved by local search: one column is exchanged for another as long as that
    lowers |N(S)|.

    Args:
        mask: any mask.
        s_max: largest set.
        restarts: first columns tried, chosen at random.
        seed: which ones, and how ties are broken.

    Raises:
        ExpanderSaeError: s_max or restarts below 1.

    Source: greedy maximum coverage, minimising (Nemhauser, Wolsey, Fisher 1978); 1-exchange local search.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> mask = make_mask("clustered", d_in=8, n_latents=8, degree=2, seed=0)
        >>> find_bad_expansion(mask, s_max=2).loss.tolist()
        [0.0, 0.0, 0.5]
    """
    _check(s_max, restarts)
    stream, members = CounterStream(f"expansion search|{seed}"), row_members(mask)
    s_max = min(s_max, mask.n_latents)
    fewest = np.full(s_max + 1, mask.d_in, np.int64)
    fewest[0] = 0
    rows = mask.rows.astype(np.int64)
    best, best_rows = np.empty(0, np.int64), mask.d_in + 1
    for first in stream.integers(mask.n_latents, restarts).tolist():
        new = np.full(mask.n_latents, mask.degree, np.int64)
        covered = np.zeros(mask.d_in, bool)
        taken = int(first)
        neighbours = 0
        chosen: list[int] = []
        for size in range(1, s_max + 1):
            for row in rows[taken]:
                if not covered[row]:
                    covered[row] = True
                    neighbours += 1
                    new[members[row]] -= 1
            new[taken] = mask.degree + 1
            chosen.append(taken)
            fewest[size] = min(fewest[size], neighbours)
            taken = _lowest(new, stream)
        if neighbours < best_rows:
            best, best_rows = np.array(chosen, np.int64), neighbours
    fewest[s_max] = min(fewest[s_max], _exchange(mask, best, members))
    sizes = np.arange(s_max + 1)
    loss = np.zeros(s_max + 1)
    loss[1:] = 1 - fewest[1:] / (mask.degree * sizes[1:])
    half = np.flatnonzero(2 * fewest <= mask.degree * sizes)[1:]
    return FoundExpansion(np.maximum.accumulate(loss), int(half[0]) if half.size else None)


def _exchange(mask: Mask, columns: np.ndarray, members: list[np.ndarray]) -> int:
    """|N(S)| after exchanging single columns of S as long as one exchange lowers it."""
    rows, chosen = mask.rows.astype(np.int64), columns.copy()
    times = np.bincount(rows[chosen].ravel(), minlength=mask.d_in)
    new = (times[rows] == 0).sum(axis=1)  # rows that a column would add
    while True:
        own = times[rows[chosen]] == 1
        # Those with most rows of their own first: giving them up saves most.
        for place in np.argsort(-own.sum(axis=1), kind="stable").tolist():
            old = chosen[place]
            freed = rows[old][own[place]]
            without = new.copy()
            for row in freed:
                without[members[row]] += 1
            without[chosen] = mask.degree + 1
            other = int(np.argmin(without))
            if without[other] < len(freed):
                break
        else:
            return int((times > 0).sum())
        for row in freed:
            new[members[row]] += 1
        times[rows[old]] -= 1
        for row in rows[other][times[rows[other]] == 0]:
            new[members[row]] -= 1
        times[rows[other]] += 1
        chosen[place] = other


def find_stopping_set(mask: Mask, *, restarts: int = 16, s_max: int = 1024, seed: int = 0) -> np.ndarray | None:
    """A small stopping set, columns int64 sorted, or None if none was found.

    Each restart grows a set from a random column by the column that meets most singly-used rows and brings fewest new
    ones, until no row is used once; then columns are removed as long as a stopping set remains inside.
    Its size bounds the stopping distance from above.

    Args:
        mask: any mask.
        restarts: first columns tried.
        s_max: sets that grow beyond this are given up.
        seed: which first columns, and how ties are broken.

    Raises:
        ExpanderSaeError: s_max or restarts below 1.

    Source: in the manner of Hu, Fossorier, Eleftheriou, "On the computation of the minimum distance of LDPC
    codes", ICC 2004: local search around a seed.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> find_stopping_set(mask_from_rows(np.array([[0, 1], [1, 2], [0, 2]]), d_in=3)).tolist()
        [0, 1, 2]
    """
    _check(s_max, restarts)
    stream, members = CounterStream(f"stopping search|{seed}"), row_members(mask)
    best: np.ndarray | None = None
    for first in stream.integers(mask.n_latents, restarts).tolist():
        limit = s_max if best is None else min(s_max, 2 * len(best))
        grown = _grow_stopping_set(mask, int(first), members, limit, stream)
        if grown is None:
            continue
        shrunk = _shrink(mask, grown, stream)
        if best is None or len(shrunk) < len(best):
            best = shrunk
    if best is not None and not is_stopping_set(mask, best):
        raise AssertionError("a set that survived peeling is not a stopping set")
    return best


def _grow_stopping_set(
    mask: Mask, first: int, members: list[np.ndarray], s_max: int, stream: CounterStream
) -> np.ndarray | None:
    """Add columns until no row is used exactly once."""
    times = np.zeros(mask.d_in, np.int64)
    score = np.full(mask.n_latents, mask.degree, np.int64)  # new rows minus singly-used rows met
    chosen: list[int] = []
    taken = first
    rows = mask.rows.astype(np.int64)
    for _ in range(min(s_max, mask.n_latents)):
        chosen.append(taken)
        for row in rows[taken]:
            times[row] += 1
            if times[row] == 1:
                score[members[row]] -= 2  # was new, is now singly used
            elif times[row] == 2:
                score[members[row]] += 1  # was singly used, is now of no account
        score[taken] = 3 * mask.degree
        if not (times == 1).any():
            return np.array(sorted(chosen), np.int64)
        taken = _lowest(score, stream)
    return None


def _shrink(mask: Mask, columns: np.ndarray, stream: CounterStream) -> np.ndarray:
    """Remove columns, in random order, while peeling leaves a stopping set."""
    bits = max(1, (mask.n_latents - 1).bit_length())
    for column in stream.shuffled(columns, bits=bits).tolist():
        if column in columns:
            rest = unpeeled(mask, columns[columns != column])
            if rest.size:
                columns = rest
    return columns


def _lowest(score: np.ndarray, stream: CounterStream) -> int:
    """A random position of the minimum."""
    lowest = np.flatnonzero(score == score.min())
    return int(lowest[int(stream.integers(len(lowest), 1)[0])])


def _check(s_max: int, restarts: int) -> None:
    if s_max < 1 or restarts < 1:
        raise ExpanderSaeError(f"expected s_max and restarts of at least 1; got {s_max} and {restarts}.")
