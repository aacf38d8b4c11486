"""Polynomial masks: two columns share at most t - 1 rows because two polynomials agree at most t - 1 times."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .mask import row_dtype


def polynomial_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] with overlap at most t - 1, t the least number of coefficients with q^t >= n_latents.

    q is the largest prime with degree * q <= d_in. A column is a polynomial p of degree below t over F_q and its
    rows are {g q + p(a_g) : g < degree} for distinct random points a_g; consecutive points would leave small
    sets of columns in arithmetic progression that share many rows. Columns come in classes {c + p : c in F_q},
    each of which uses every row once, so right degrees over the degree * q rows differ by at most one. The rows
    get random names at the end.

    The d_in - degree * q rows left over are filled by moving single entries out of the most used rows. Taking
    an entry away raises no overlap, and a column enters a row only if it shares at most t - 2 rows with each
    column there. For t = 1 (n_latents <= q) the columns are disjoint and nothing is filled that would change it.

    Raises:
        ExpanderSaeError: no prime q with degree <= q <= d_in / degree, or more columns than polynomials of
            degree below `degree` (those with more coefficients could coincide at every point).

    Source: Kautz and Singleton, "Nonrandom binary superimposed codes", IEEE Trans. Information Theory 10, 1964;
    DeVore, "Deterministic constructions of compressed sensing matrices", J. Complexity 23, 2007.
    """
    if degree == 1:
        order = stream.shuffled(np.arange(d_in, dtype=row_dtype(d_in)), bits=max(1, (d_in - 1).bit_length()))
        return order[np.arange(n_latents) % d_in][:, None]
    q = _largest_prime_up_to(d_in // degree)
    if q < degree:
        raise ExpanderSaeError(
            f"expected a prime q with degree <= q <= d_in / degree; got d_in {d_in} and degree {degree}: the largest "
            f"prime up to {d_in // degree} is {q or 'none'}. Choose a smaller degree (about sqrt(d_in) at most) "
            "or the construction 'greedy'."
        )
    terms = 1
    while q**terms < n_latents:
        terms += 1
    if terms > degree:
        raise ExpanderSaeError(
            f"expected n_latents <= q^degree = {q}^{degree}; got {n_latents}: there are no more distinct columns. "
            "Choose a larger degree or d_in."
        )
    coefficients = _coefficients(q, terms, n_latents, stream)
    points = stream.shuffled(np.arange(q, dtype=np.uint32), bits=32)[:degree].astype(np.int64)
    rows = np.empty((n_latents, degree), np.int64)
    for group, point in enumerate(points.tolist()):
        value = coefficients[:, terms - 1].copy()
        for term in range(terms - 2, -1, -1):  # Horner; q < 2^24, so the product stays below 2^48
            value = (value * point + coefficients[:, term]) % q
        rows[:, group] = group * q + value
    _fill(rows, d_in, degree * q, terms - 1, stream)
    names = stream.shuffled(np.arange(d_in, dtype=row_dtype(d_in)), bits=max(1, (d_in - 1).bit_length()))
    rows = names[rows]
    rows.sort(axis=1)
    return rows


def _largest_prime_up_to(bound: int) -> int:
    """The largest prime <= bound, 0 if there is none; trial division, bound is below 2^24."""
    for q in range(bound, 1, -1):
        if all(q % factor for factor in range(2, int(q**0.5) + 1)):
            return q
    return 0


def _coefficients(q: int, terms: int, n_latents: int, stream: CounterStream) -> np.ndarray:
    """Distinct polynomials [n_latents, terms], constant term first, in whole classes {c + p} up to the last.

    Which of the q^(terms - 1) classes are used, fewer than n_latents in all, and in which order, is random.
    """
    number = np.arange(n_latents, dtype=np.int64)
    out = np.empty((n_latents, terms), np.int64)
    out[:, 0] = number % q
    if terms > 1:
        classes = q ** (terms - 1)
        order = stream.shuffled(np.arange(classes, dtype=np.int64), bits=max(1, (classes - 1).bit_length()))
        chosen = order[number // q]
        for term in range(1, terms):
            out[:, term] = chosen % q
            chosen //= q
    return out


def _fill(rows: np.ndarray, d_in: int, made: int, cap: int, stream: CounterStream) -> None:
    """Move entries, in place, from the most used rows into rows made..d_in, keeping every overlap at most `cap`."""
    n_latents, degree = rows.shape
    mean = n_latents * degree // d_in
    if d_in == made or mean == 0:
        return
    used = np.bincount(rows.ravel(), minlength=d_in)
    order = np.argsort(rows, axis=None, kind="stable")
    members = [part // degree for part in np.split(order, np.cumsum(used)[:-1])]
    bits = max(1, (n_latents - 1).bit_length())
    for new in range(made, d_in):
        count = 0
        blocked = np.zeros(n_latents, bool)  # columns that share `cap` rows with a column of the new row
        for column in stream.shuffled(np.arange(n_latents, dtype=np.uint32), bits=bits).tolist():
            if count >= mean:
                break
            if blocked[column]:
                continue
            place = int(used[rows[column]].argmax())
            old = int(rows[column, place])
            if used[old] <= mean:
                continue
            rows[column, place] = new
            members[old] = members[old][members[old] != column]
            used[old] -= 1
            used[new] += 1
            count += 1
            near = np.concatenate([members[row] for row in rows[column].tolist() if row != new])
            shared = np.bincount(near, minlength=n_latents)
            blocked |= shared >= cap
        members[new] = np.flatnonzero((rows == new).any(axis=1))
