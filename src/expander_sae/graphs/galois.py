"""Polynomial masks over any finite field, with rows that a formula gives: n = 2^20 columns in seconds."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .counter import CounterStream
from .finite_field import FiniteField, largest_prime_power_up_to
from .mask import row_dtype


def galois_rows(d_in: int, n_latents: int, degree: int, stream: CounterStream) -> np.ndarray:
    """Rows [n_latents, degree] with overlap at most t - 1, t the least number of coefficients with q^t >= n_latents.

    As `polynomial_rows`, but q is the largest prime power with degree * q <= d_in, and the d_in - degree * q rows left
    over are filled by a rule instead of a search: two polynomials with one leading coefficient agree at most t - 2
    times, so columns with one leading coefficient may share a row that is left over. Each of them gives up one entry
    for it. Nothing is stored per column (`column_rows` gives any of them), and time is O(n_latents degree).

    Raises:
        ExpanderSaeError: no prime power q with degree <= q <= d_in / degree, or more columns than polynomials of
            degree below `degree`.

    Source: Kautz and Singleton, IEEE Trans. Information Theory 10, 1964; DeVore, J. Complexity 23, 2007.
    """
    plan = GaloisPlan(d_in, n_latents, degree, stream)
    out = np.empty((n_latents, degree), row_dtype(d_in))
    step = max(1, (1 << 22) // degree)
    for first in range(0, n_latents, step):
        columns = np.arange(first, min(first + step, n_latents), dtype=np.int64)
        out[first : first + step] = plan.column_rows(columns)
    return out


class GaloisPlan:
    """What a mask's seed draws: O(d_in + q) numbers, from which every column follows.

    Args:
        d_in, n_latents, degree: sizes.
        stream: of the seed.

    Raises:
        ExpanderSaeError: see `galois_rows`.
    """

    def __init__(self, d_in: int, n_latents: int, degree: int, stream: CounterStream) -> None:
        q = largest_prime_power_up_to(d_in // degree)
        if q < degree:
            raise ExpanderSaeError(
                f"expected a prime power q with degree <= q <= d_in / degree; got d_in {d_in} and degree {degree}: the "
                f"largest up to {d_in // degree} is {q or 'none'}. Choose a smaller degree (about sqrt(d_in) at most) "
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
        self.q, self.terms, self.degree = q, terms, degree
        self._field = FiniteField(q)
        self._left_over = d_in - degree * q if terms > 1 else 0
        self._mean = n_latents * degree // d_in
        self._leads = min(q, -(-n_latents // q))
        points = stream.shuffled(np.arange(q, dtype=np.uint32), bits=32)[:degree].astype(np.int64)
        self._tables = [self._field.times(int(point)) for point in points]
        self._lead_names = stream.shuffled(np.arange(q, dtype=np.uint32), bits=32).astype(np.int64)
        self._rest = q ** max(0, terms - 2)  # polynomials without constant and leading term
        self._stride = 1 + self._field.p * int(stream.integers(max(1, min(self._rest, 1 << 31) // self._field.p), 1)[0])
        self._shifts = stream.integers(min(self._rest, 1 << 32), q).astype(np.int64)
        self._names = stream.shuffled(np.arange(d_in, dtype=row_dtype(d_in)), bits=max(1, (d_in - 1).bit_length()))

    def column_rows(self, columns: np.ndarray) -> np.ndarray:
        """Rows [len(columns), degree] of the columns listed, sorted, without making any other.

        Args:
            columns: int64, below n_latents.
        """
        q = self.q
        number, constant = columns // q, columns % q
        classes, of_column = np.unique(number, return_inverse=True)
        coefficients = self._coefficients(classes)
        values = np.zeros((self.degree, len(classes)), np.int64)
        for group, table in enumerate(self._tables):
            for term in coefficients:  # Horner without the constant, leading term first
                values[group] = table[self._field.add(values[group], term)]
        rows = np.empty((len(columns), self.degree), np.int64)
        for group in range(self.degree):
            rows[:, group] = group * q + self._field.add(values[group][of_column], constant)
        self._fill(rows, number, constant)
        named = self._names[rows]
        named.sort(axis=1)
        return named

    def _coefficients(self, classes: np.ndarray) -> list[np.ndarray]:
        """Of each class of polynomials that differ in the constant only: the other coefficients, leading one first."""
        if self.terms == 1:
            return []
        lead, rest = classes % self.q, classes // self.q
        # rest < q^(terms - 2); the stride is prime to q, so no two polynomials of one leading coefficient coincide.
        rest = (rest * self._stride + self._shifts[lead]) % self._rest
        found = [self._lead_names[lead]]
        for _ in range(self.terms - 2):
            found.append(rest % self.q)
            rest = rest // self.q
        return found

    def _fill(self, rows: np.ndarray, number: np.ndarray, constant: np.ndarray) -> None:
        """Move one entry of some columns, in place, into the rows left over: about the mean degree into each."""
        if not self._left_over or not self._mean:
            return
        lead, turn = number % self.q, number // self.q
        new = (turn * self.q + constant) // self._mean * self._leads + lead
        moved = np.flatnonzero(new < self._left_over)
        group = (new[moved] + turn[moved]) % self.degree
        rows[moved, group] = self.degree * self.q + new[moved]
