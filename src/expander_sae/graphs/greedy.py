"""Greedy masks: the smallest overlap that a row-by-row construction can keep, with nearly equal right degrees."""

import numpy as np

from .counter import CounterStream
from .mask import row_dtype
from .packing import smallest_possible_overlap
from .uniform import complement_rows

_TRIES = 24  # attempts at one column before the overlap is raised
_TAKEN = np.uint64(0xFFFFFFFFFFFFFFFF)


def greedy_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree], column by column; a row is admissible if it brings no overlap above the cap.

    Each column takes, `degree` times, the least-used admissible row, ties at random. A row is admissible unless
    it belongs to an earlier column that already shares `cap` rows with the unfinished one. A column that cannot be
    finished is tried again with rows chosen less strictly by use. The cap starts at
    `smallest_possible_overlap` and rises by one when a column fails for good: for the columns that are left
    if they are at most one in 32 (the mask then has overlap cap + 1 in a few pairs), else for the whole mask.

    Time is n_latents * degree steps of O(d_in + D degree), D = n_latents * degree / d_in, for each cap tried.

    Source: progressive edge growth (Hu, Eleftheriou, Arnold, IEEE Trans. Information Theory 51, 2005) with
    the overlap in place of the girth.
    """
    if 2 * degree > d_in:
        # |A n B| = 2 degree - d_in + |complements' overlap|, so the smallest overlap is the complements'.
        return complement_rows(greedy_rows(d_in, n_latents, d_in - degree, stream), d_in)
    if degree == 0:
        return np.empty((n_latents, 0), row_dtype(d_in))
    cap = smallest_possible_overlap(d_in, n_latents, degree)
    while True:
        growth = _Growth(d_in, n_latents, degree, stream)
        placed = growth.place(cap, until=n_latents)
        while placed < n_latents and 32 * (n_latents - placed) <= n_latents:
            cap += 1
            placed = growth.place(cap, until=n_latents)
        if placed == n_latents:
            rows = growth.rows
            rows.sort(axis=1)
            return rows.astype(row_dtype(d_in))
        cap += 1


class _Growth:
    """A mask under construction and the inverted index that says who shares a row."""

    def __init__(self, d_in: int, n_latents: int, degree: int, stream: CounterStream) -> None:
        self.rows = np.empty((n_latents, degree), np.int64)
        self.used = np.zeros(d_in, np.int64)
        self.placed = 0
        self._members = np.empty((d_in, 2 * (n_latents * degree // d_in) + 8), np.int32)
        self._shared = np.zeros(n_latents, np.int32)  # rows in common with the column being built
        self._stream = stream

    def place(self, cap: int, *, until: int) -> int:
        """Add columns while no overlap exceeds `cap`; return how many there are."""
        while self.placed < until:
            if not any(self._try_column(cap, slack) for slack in range(_TRIES)):
                break
        return self.placed

    def _try_column(self, cap: int, slack: int) -> bool:
        """Build one column, preferring rows by use plus a random handicap of 0 to `slack`."""
        d_in, degree = len(self.used), self.rows.shape[1]
        key = self._stream.words(d_in)
        handicap = (key & np.uint64(0xFF)) % np.uint64(slack + 1)
        key >>= np.uint64(32)
        key |= (self.used.astype(np.uint64) + handicap) << np.uint64(32)
        chosen = self.rows[self.placed]
        touched: list[np.ndarray] = []
        done = True
        for place in range(degree):
            row = int(key.argmin())
            if key[row] == _TAKEN:
                done = False
                break
            chosen[place] = row
            key[row] = _TAKEN
            if cap < degree:
                members = self._members[row, : self.used[row]]
                touched.append(members)
                self._shared[members] += 1
                full = members[self._shared[members] == cap] if cap else members
                key[self.rows[full]] = _TAKEN
        for members in touched:
            self._shared[members] = 0
        if done:
            self._enter(chosen)
        return done

    def _enter(self, chosen: np.ndarray) -> None:
        """Put the finished column into the inverted index."""
        if self.used[chosen].max() == self._members.shape[1]:
            self._members = np.concatenate([self._members, np.empty_like(self._members)], axis=1)
        self._members[chosen, self.used[chosen]] = self.placed
        self.used[chosen] += 1
        self.placed += 1
