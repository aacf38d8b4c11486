"""The frozen sparsity pattern of a dictionary: a left-d-regular bipartite graph."""

import hashlib
from dataclasses import dataclass

import numpy as np

from expander_sae.records import ExpanderSaeError, whole_number

MAX_D_IN = 1 << 24
_HASH_CHUNK = 1 << 16  # columns converted at once while hashing


def row_dtype(d_in: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer type that holds d_in - 1."""
    if d_in <= 1 << 8:
        return np.uint8
    return np.uint16 if d_in <= 1 << 16 else np.uint32


def check_sizes(d_in: int, n_latents: int, degree: int) -> None:
    """Refuse sizes no mask can have.

    Raises:
        ExpanderSaeError: a size is not a positive integer, degree > d_in, or d_in > 2^24.
    """
    for name, size in (("d_in", d_in), ("n_latents", n_latents), ("degree", degree)):
        whole_number(name, size, least=1)
    if d_in > MAX_D_IN:
        raise ExpanderSaeError(f"expected d_in of at most {MAX_D_IN}; got {d_in}.")
    if degree > d_in:
        raise ExpanderSaeError(
            f"expected degree <= d_in; got degree {degree} and d_in {d_in}: a column cannot have "
            f"{degree} distinct rows out of {d_in}. Choose a degree of at most {d_in}."
        )


@dataclass(frozen=True, eq=False)
class Mask:
    """Which rows each dictionary column may use: W[i, j] can be non-zero only if i is in rows[j].

    Two masks are equal when their rows and `d_in` are, however they came about.

    Attributes:
        rows: [n_latents, degree], sorted and distinct within a column, read-only, stored in the smallest
            unsigned integer type that holds d_in - 1 (any integer type is accepted and converted).
        d_in: number of rows (input coordinates) of the dictionary.
        construction: how the rows were made; "rows" when they were given.
        seed: the seed they were made with; None when they cannot be made again from a seed.

    Raises:
        ExpanderSaeError: rows is not an integer matrix, leaves [0, d_in), or a column does not strictly increase.

    Example:
        >>> Mask(np.array([[0, 2], [1, 2]]), d_in=3, construction="rows", seed=None).right_degrees()
        array([1, 1, 2])
    """

    rows: np.ndarray
    d_in: int
    construction: str
    seed: int | None

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.ndim != 2 or rows.dtype.kind not in "iu":
            raise ExpanderSaeError(
                f"expected rows as integers [n_latents, degree]; got shape {rows.shape} of {rows.dtype}."
            )
        check_sizes(self.d_in, *rows.shape)
        if rows.min() < 0 or rows.max() >= self.d_in:
            raise ExpanderSaeError(f"expected rows in [0, {self.d_in}); got values from {rows.min()} to {rows.max()}.")
        bad = np.flatnonzero((rows[:, 1:] <= rows[:, :-1]).any(axis=1))
        if bad.size:
            raise ExpanderSaeError(
                f"expected the rows of every column sorted and distinct; got column {bad[0]} as "
                f"{rows[bad[0]].tolist()} ({bad.size} such columns). "
                "mask_from_rows sorts for you; replace repeated rows."
            )
        # A private copy: a mask whose rows change under it would no longer match its hash.
        stored = np.array(rows, dtype=row_dtype(self.d_in), order="C")
        stored.setflags(write=False)
        object.__setattr__(self, "rows", stored)
        object.__setattr__(self, "d_in", int(self.d_in))

    @property
    def n_latents(self) -> int:
        """Number of columns."""
        return self.rows.shape[0]

    @property
    def degree(self) -> int:
        """Number of rows each column may use."""
        return self.rows.shape[1]

    def right_degrees(self) -> np.ndarray:
        """How many columns use each row, int64 [d_in]; it sums to n_latents * degree."""
        counts = np.zeros(self.d_in, np.int64)
        step = max(1, (1 << 22) // self.degree)  # bincount widens what it reads to int64
        for first in range(0, self.n_latents, step):
            counts += np.bincount(self.rows[first : first + step].ravel(), minlength=self.d_in)
        return counts

    @property
    def empty_rows(self) -> np.ndarray:
        """Rows that no column uses, int64 [count]: coordinates the decoder can never reconstruct."""
        return np.flatnonzero(self.right_degrees() == 0)

    def sha256(self) -> str:
        """SHA-256 of (n_latents, degree, d_in) and the rows, all as little-endian uint32.

        It does not depend on the storage type, the platform, the construction or the seed.
        """
        digest = hashlib.sha256(np.array([self.n_latents, self.degree, self.d_in], "<u4").tobytes())
        for first in range(0, self.n_latents, _HASH_CHUNK):
            digest.update(self.rows[first : first + _HASH_CHUNK].astype("<u4").tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.d_in == other.d_in and np.array_equal(self.rows, other.rows)

    def __hash__(self) -> int:
        return hash((self.d_in, self.sha256()))
