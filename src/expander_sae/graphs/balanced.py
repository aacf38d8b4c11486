"""Balanced masks: random columns, with every row used equally often up to one."""

import numpy as np

from .counter import CounterStream
from .mask import row_dtype
from .uniform import complement_rows

_RANDOM_ROUNDS = 200  # rounds of random swaps before the exhaustive search takes over


def balanced_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] whose right degrees are floor or ceil of n_latents * degree / d_in.

    The configuration model: write every row that often (which rows get the extra one is random), shuffle,
    cut into columns; then repair rows that occur twice in a column by swapping entries of two columns, which
    leaves all right degrees alone. Columns are close to, but not exactly, uniform over all such masks.

    If n_latents * degree < d_in some rows stay empty, and no row is used twice; that is allowed, and
    `Mask.empty_rows` lists them.
    """
    if 2 * degree > d_in:
        # The complement's right degrees are n_latents minus ours, so they differ by at most one too. With
        # degree <= d_in / 2 a repairing swap always exists, see _exhaustive_swap.
        return complement_rows(balanced_rows(d_in, n_latents, d_in - degree, stream), d_in)
    if degree == 0:
        return np.empty((n_latents, 0), row_dtype(d_in))
    bits = max(1, (d_in - 1).bit_length())
    every, extra = divmod(n_latents * degree, d_in)
    order = stream.shuffled(np.arange(d_in, dtype=row_dtype(d_in)), bits=bits)
    stubs = np.concatenate([np.tile(order, every), order[:extra]])
    rows = stream.shuffled(stubs, bits=bits).reshape(n_latents, degree)
    rows.sort(axis=1)
    _repair(rows, stream)
    rows.sort(axis=1)
    return rows


def _repair(rows: np.ndarray, stream: CounterStream) -> None:
    """Swap entries between columns, in place, until no column holds a row twice."""
    n_latents, degree = rows.shape
    column, place = np.nonzero(rows[:, 1:] == rows[:, :-1])
    place += 1
    # Few enough swaps a round that two of them seldom touch the same column.
    per_round = max(64, n_latents // 8)
    for _ in range(_RANDOM_ROUNDS + 16 * degree):
        if not column.size:
            return
        first_of_column = np.ones(column.size, bool)
        first_of_column[1:] = column[1:] != column[:-1]
        tried = np.flatnonzero(first_of_column)[:per_round]
        done = _swap_round(rows, column[tried], place[tried], stream)
        keep = np.ones(column.size, bool)
        keep[tried[done]] = False
        column, place = column[keep], place[keep]
    for c, p in zip(column.tolist(), place.tolist(), strict=True):
        _exhaustive_swap(rows, c, p)


def _swap_round(rows: np.ndarray, column: np.ndarray, place: np.ndarray, stream: CounterStream) -> np.ndarray:
    """Try one random swap for each entry (column, place); the columns are distinct.

    Returns which entries are done with: swapped, or no longer repeated since an earlier swap took their twin.
    """
    n_latents, degree = rows.shape
    mine = rows[column, place]
    still_repeated = (rows[column] == mine[:, None]).sum(axis=1) > 1
    other = stream.integers(n_latents, column.size).astype(np.int64)
    other_place = stream.integers(degree, column.size).astype(np.int64)
    theirs = rows[other, other_place]
    useful = still_repeated & (other != column)
    useful &= ~(rows[column] == theirs[:, None]).any(axis=1)
    useful &= ~(rows[other] == mine[:, None]).any(axis=1)
    # Of the swaps that touch the same column only the last is made, so every check above stays true.
    number = np.flatnonzero(useful)
    owner = np.full(n_latents, -1, np.int64)
    np.maximum.at(owner, column[number], number)
    np.maximum.at(owner, other[number], number)
    number = number[(owner[column[number]] == number) & (owner[other[number]] == number)]
    rows[column[number], place[number]] = theirs[number]
    rows[other[number], other_place[number]] = mine[number]
    done = ~still_repeated
    done[number] = True
    return done


def _exhaustive_swap(rows: np.ndarray, column: int, place: int) -> None:
    """Make the first swap, in column order, that ends one repetition.

    There is one whenever degree <= d_in / 2. With D the larger right degree, at most (degree - 1) D entries
    hold a row of this column, and at most (D - 1) degree lie in a column that holds `mine`. The rest can be
    swapped with: at least degree (n_latents - 2 D) + D + degree >= D, because D <= (n_latents + 1) / 2.
    """
    mine = rows[column, place]
    if (rows[column] == mine).sum() < 2:
        return
    free = ~np.isin(rows, rows[column])
    free &= ~(rows == mine).any(axis=1)[:, None]
    other, other_place = np.unravel_index(int(np.argmax(free)), rows.shape)
    if not free[other, other_place]:
        raise AssertionError("a balanced mask ran out of swaps; this contradicts the counting argument")
    rows[column, place], rows[other, other_place] = rows[other, other_place], mine
