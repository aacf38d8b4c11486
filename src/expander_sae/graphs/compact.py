"""Rows of a mask in as few bits as a fixed length for every column allows."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .mask import Mask, check_sizes, row_dtype

_CHUNK = 1 << 22
"""Bits of columns that are packed or unpacked at once, about: each is a byte or more meanwhile."""


def column_bits(d_in: int, degree: int) -> int:
    """Bits of one packed column: the least `degree * l + degree + ((d_in - degree) >> l)` over l.

    About `degree * (2 + log2(d_in / degree))` for small degrees and never more than `d_in`, where log2 of the number of
    supports, binomial(d_in, degree), is the least that any code of fixed length can have.

    Raises:
        ExpanderSaeError: sizes that no mask has.

    Example:
        >>> column_bits(576, 7), column_bits(576, 200)  # 112 and 3,200 as 16-bit integers
        (57, 576)
    """
    check_sizes(d_in, 1, degree)
    d_in, degree = int(d_in), int(degree)
    return _bits(d_in, degree, _low_bits(d_in, degree))


def pack_rows(mask: Mask) -> np.ndarray:
    """The rows of a mask, each column in `column_bits` bits: uint8 [ceil(n_latents * column_bits / 8)].

    Elias-Fano coding. The sorted rows of a column less 0, 1, 2, ... do not decrease and stay below
    `d_in - degree + 1`; of each, the low l bits are stored as they are and the rest in unary, as the distance from its
    predecessor's, so that every column takes the same number of bits. At l = 0 it is a bitmap of rows.

    Source:
        Elias, Efficient storage and retrieval by content and address of static files, 1974.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> mask = make_mask(d_in=576, n_latents=4608, degree=7, seed=0)
        >>> len(pack_rows(mask)), mask.rows.nbytes
        (32832, 64512)
    """
    degree, each, low = mask.degree, column_bits(mask.d_in, mask.degree), _low_bits(mask.d_in, mask.degree)
    parts = []
    for start in range(0, mask.n_latents, _columns_at_once(each)):
        gaps = mask.rows[start : start + _columns_at_once(each)].astype(np.int64) - np.arange(degree)
        bits = np.zeros((len(gaps), each), dtype=bool)
        for place in range(low):
            bits[:, place : degree * low : low] = (gaps >> place) & 1
        np.put_along_axis(bits, degree * low + (gaps >> low) + np.arange(degree), True, axis=1)
        parts.append(np.packbits(bits))
    return np.concatenate(parts)


def unpack_rows(packed: np.ndarray, *, d_in: int, n_latents: int, degree: int) -> np.ndarray:
    """The rows [n_latents, degree] that `pack_rows` packed, in the smallest unsigned integer type.

    Raises:
        ExpanderSaeError: the array has another size or type, or holds what no mask packs to.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> mask = make_mask(d_in=576, n_latents=4608, degree=7, seed=0)
        >>> bool((unpack_rows(pack_rows(mask), d_in=576, n_latents=4608, degree=7) == mask.rows).all())
        True
    """
    check_sizes(d_in, n_latents, degree)
    each, low = column_bits(d_in, degree), _low_bits(d_in, degree)
    size = -(-n_latents * each // 8)
    if packed.dtype != np.uint8 or packed.shape != (size,):
        raise ExpanderSaeError(
            f"expected packed rows as uint8 [{size}] for d_in {d_in}, n_latents {n_latents} and degree {degree}; got "
            f"{packed.dtype} {list(packed.shape)}"
        )
    rows = np.empty((n_latents, degree), dtype=row_dtype(d_in))
    at_once = _columns_at_once(each)
    for start in range(0, n_latents, at_once):
        count = min(at_once, n_latents - start)
        # Whole bytes: but for the last, pieces have a multiple of eight columns.
        piece = np.unpackbits(packed[start * each // 8 : -(-(start + count) * each // 8)])
        bits, padding = piece[: count * each].reshape(count, each), piece[count * each :]
        high = bits[:, degree * low :]
        if bool((high.sum(axis=1, dtype=np.int64) != degree).any()) or bool(padding.any()):
            raise ExpanderSaeError(
                f"expected {degree} rows in every packed column and zeros after the last; got others: copy it again"
            )
        gaps = (np.nonzero(high)[1].reshape(count, degree) - np.arange(degree)) << low
        for place in range(low):
            gaps |= bits[:, place : degree * low : low].astype(np.int64) << place
        if bool((gaps[:, 1:] < gaps[:, :-1]).any()) or int(gaps.max()) > d_in - degree:
            raise ExpanderSaeError(
                f"expected packed rows that ascend below d_in = {d_in} in every column; got others: copy it again"
            )
        rows[start : start + count] = gaps + np.arange(degree)
    return rows


def _columns_at_once(each: int) -> int:
    return 8 * max(1, _CHUNK // (8 * each))


def _low_bits(d_in: int, degree: int) -> int:
    return min(range(d_in.bit_length()), key=lambda low: _bits(d_in, degree, low))


def _bits(d_in: int, degree: int, low: int) -> int:
    return degree * low + degree + ((d_in - degree) >> low)
