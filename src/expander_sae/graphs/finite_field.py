"""Arithmetic of a field with q = p^e elements, on arrays of integers in [0, q)."""

import numpy as np


class FiniteField:
    """Elements are integers whose base-p digits are the coefficients of a polynomial in x; prime q is plain mod q.

    The modulus is the first monic polynomial, counting its lower digits upwards, for which x generates all non-zero
    elements, so every machine builds the same field.

    Args:
        q: a prime power.

    Example:
        >>> field = FiniteField(4)
        >>> field.times(2)[np.arange(4)].tolist(), field.add(np.array([3]), np.array([1])).tolist()
        ([0, 2, 3, 1], [2])
    """

    def __init__(self, q: int) -> None:
        self.q = q
        self.p, self.e = prime_power(q)
        if self.e > 1:
            self._powers = next(
                powers for low in range(1, q) if low % self.p and (powers := self._cycle(low)) is not None
            )
            self._logs = np.zeros(q, np.int64)
            self._logs[self._powers] = np.arange(q - 1)

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a + b, broadcast."""
        if self.e == 1:
            return (a + b) % self.q
        if self.p == 2:
            return a ^ b
        out, place = np.zeros(np.broadcast_shapes(a.shape, b.shape), np.int64), 1
        for _ in range(self.e):
            out += (a // place + b // place) % self.p * place
            place *= self.p
        return out

    def times(self, factor: int) -> np.ndarray:
        """The table x -> factor x, int64 [q]."""
        if self.e == 1:
            return np.arange(self.q, dtype=np.int64) * factor % self.q
        table = np.zeros(self.q, np.int64)
        if factor:
            table[1:] = self._powers[(self._logs[1:] + self._logs[factor]) % (self.q - 1)]
        return table

    def _cycle(self, low: int) -> np.ndarray | None:
        """Powers of x modulo x^e + low, int64 [q - 1], low without factor p; None if they return to one too early.

        x is invertible, so its powers return to one first; where the modulus is reducible fewer than q - 1 elements
        are invertible, so that happens too early.
        """
        # x^e = -low, digit by digit.
        digits = [(-(low // self.p**i)) % self.p for i in range(self.e)]
        top, powers, value = self.q // self.p, [1], 1
        for _ in range(self.q - 2):
            lead, rest = divmod(value, top)
            value = 0
            for i in range(self.e):
                digit = (rest // self.p ** (i - 1) % self.p if i else 0) + lead * digits[i]
                value += digit % self.p * self.p**i
            if value == 1:
                return None
            powers.append(value)
        return np.array(powers, np.int64)


def prime_power(q: int) -> tuple[int, int]:
    """(p, e) with q = p^e, or (q, 0) if q is no prime power.

    Example:
        >>> prime_power(289), prime_power(12)
        ((17, 2), (12, 0))
    """
    p = next((f for f in range(2, int(q**0.5) + 1) if q % f == 0), q)
    e, rest = 0, q
    while q > 1 and rest % p == 0:
        rest, e = rest // p, e + 1
    return (p, e) if rest == 1 and q > 1 else (q, 0)


def largest_prime_power_up_to(bound: int) -> int:
    """The largest prime power <= bound, 0 if there is none.

    Example:
        >>> largest_prime_power_up_to(292), largest_prime_power_up_to(64)
        (289, 64)
    """
    return next((q for q in range(bound, 1, -1) if prime_power(q)[1]), 0)
