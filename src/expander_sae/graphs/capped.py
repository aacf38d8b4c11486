"""Capped masks: a balanced mask whose few pairs of columns with a large overlap are taken apart by swaps."""

from math import comb

import numpy as np

from expander_sae.records import ExpanderSaeError

from .balanced import balanced_rows
from .counter import CounterStream
from .mask import Mask, row_dtype
from .overlap import overlap_blocks
from .packing import smallest_possible_overlap
from .shared_subsets import MOST_KEYS, columns_sharing
from .uniform import complement_rows

_PAIRS_PER_COLUMN = 1  # a cap is chosen if at most so many pairs per column are expected above it
_TRIES = 48  # swaps tried for one pair in one pass
_PASSES = 3
_MOST_COUNTERS = 1 << 36  # n_latents^2 counters take minutes beyond it


def capped_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree], right degrees as balanced, and no overlap above a cap.

    For every pair above the cap a shared row of one column is exchanged for a row of a third column, such that neither
    of the two gets an overlap above the cap. Right degrees stay, and no new pair arises. The cap is the smallest one,
    not below `smallest_possible_overlap`, that at most n_latents pairs of a uniform mask are expected to exceed;
    it rises by one where pairs are left after some passes.

    Raises:
        ExpanderSaeError: finding the pairs would need more than n_latents^2 = 2^36 counters.

    Source: degree-preserving switches, as for regular graphs (McKay and Wormald 1990), with the overlap as the test.
    """
    if 2 * degree > d_in:
        # |A n B| = 2 degree - d_in + |complements' overlap|, so capping the complements caps the columns.
        return complement_rows(capped_rows(d_in, n_latents, d_in - degree, stream), d_in)
    rows = balanced_rows(d_in, n_latents, degree, stream)
    if degree == 0:
        return rows
    cap = cap_of(d_in, n_latents, degree)
    if cap >= degree:
        return rows
    pairs = _pairs_above(rows, d_in, cap)
    switches = _Switches(rows, d_in, stream)
    while len(pairs):
        for _ in range(_PASSES):
            pairs = [pair for pair in pairs if not switches.part(*pair, cap)]
            if not pairs:
                break
        cap += 1
    out = switches.rows
    out.sort(axis=1)
    return out.astype(row_dtype(d_in))


def cap_of(d_in: int, n_latents: int, degree: int) -> int:
    """The cap that `capped_rows` starts with.

    Example:
        >>> cap_of(512, 4096, 7), cap_of(512, 4096, 16)
        (2, 4)
    """
    if n_latents == 1:
        return degree
    whole = comb(d_in, degree)
    cap = smallest_possible_overlap(d_in, n_latents, degree)
    while cap < degree:
        above = sum(comb(degree, o) * comb(d_in - degree, degree - o) for o in range(cap + 1, degree + 1))
        if comb(n_latents, 2) * above <= _PAIRS_PER_COLUMN * n_latents * whole:
            break
        cap += 1
    return cap


def _pairs_above(rows: np.ndarray, d_in: int, cap: int) -> list[tuple[int, int]]:
    """All pairs of columns that share more than `cap` rows."""
    n_latents, degree = rows.shape
    mask = Mask(rows, d_in=d_in, construction="rows", seed=None)
    if n_latents * comb(degree, cap + 1) <= MOST_KEYS // 4 and d_in ** (cap + 1) < 1 << 64:
        return [(int(i), int(j)) for i, j in columns_sharing(mask, cap + 1)]
    if n_latents**2 > _MOST_COUNTERS:
        raise ExpanderSaeError(
            f"expected a mask whose overlaps can be counted; got {n_latents} columns of degree {degree}: "
            f"{n_latents}^2 counters. Choose 'galois', whose overlap is known, or 'balanced'."
        )
    found = []
    for block, counts in overlap_blocks(mask, np.arange(n_latents, dtype=np.int64)):
        first, second = np.nonzero(counts > cap)
        later = second > block[first]
        found += zip(block[first[later]].tolist(), second[later].tolist(), strict=True)
    return found


class _Switches:
    """A mask whose entries are exchanged in pairs, and the index from rows to columns that goes with it."""

    def __init__(self, rows: np.ndarray, d_in: int, stream: CounterStream) -> None:
        self.rows = rows.astype(np.int64)
        n_latents, degree = rows.shape
        order = np.argsort(rows, axis=None, kind="stable") // degree
        ends = np.cumsum(np.bincount(rows.ravel(), minlength=d_in))
        self._members = np.split(order.astype(np.int32), ends[:-1])
        self._shared = np.zeros(n_latents, np.int32)
        self._blocked = np.zeros(d_in, bool)
        self._free = d_in
        self._stream = stream

    def part(self, one: int, other: int, cap: int) -> bool:
        """Exchange entries of the two until they share at most `cap` rows; False if that did not work out."""
        for attempt in range(_TRIES):
            common = np.intersect1d(self.rows[one], self.rows[other])
            if len(common) <= cap:
                return True
            mine = one if attempt % 2 == 0 else other
            self._exchange(mine, int(common[self._draw(len(common))]), cap)
        return len(np.intersect1d(self.rows[one], self.rows[other])) <= cap

    def _exchange(self, mine: int, given: int, cap: int) -> None:
        """Swap row `given` of column `mine` for a row of another column, if no overlap above `cap` comes of it."""
        full = self._near(mine, given, cap)
        touched = np.concatenate([self.rows[full].ravel(), self.rows[mine]])
        self._blocked[touched] = True
        wanted = self._draw(self._free)
        refused = self._blocked[wanted]
        self._blocked[touched] = False
        if refused or not len(self._members[wanted]):
            return
        theirs = int(self._members[wanted][self._draw(len(self._members[wanted]))])
        if (self.rows[theirs] == given).any():
            return
        full = self._near(theirs, wanted, cap)
        # `mine` gives the row away, so it does not meet `theirs` there.
        if (self.rows[full[full != mine]] == given).any():
            return
        self.rows[mine][self.rows[mine] == given] = wanted
        self.rows[theirs][self.rows[theirs] == wanted] = given
        self._rename(given, mine, theirs)
        self._rename(wanted, theirs, mine)

    def _near(self, column: int, without: int, cap: int) -> np.ndarray:
        """Columns that share at least `cap` rows with the column once it has lost `without`."""
        touched = [self._members[row] for row in self.rows[column].tolist() if row != without]
        for members in touched:
            self._shared[members] += 1
        self._shared[column] = 0
        found = [members[self._shared[members] >= cap] for members in touched]
        for members in touched:
            self._shared[members] = 0
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)

    def _rename(self, row: int, old: int, new: int) -> None:
        members = self._members[row]
        members[members == old] = new

    def _draw(self, bound: int) -> int:
        return int(self._stream.integers(bound, 1)[0])
