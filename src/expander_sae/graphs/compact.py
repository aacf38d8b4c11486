"""Rows of a mask in as few bits as a fixed length for every column allows."""

import numpy as np

from expander_sae.records import ExpanderSaeError

from .mask import Mask, check_sizes, row_dtype


def column_bits(d_in: int, degree: int) -> int:
    """Bits of one packed column: min over l of `degree * l + degree + (d_in - degree) >> l`.

    About `degree * (2 + log2(d_in / degree))` for small degrees and never more than `d_in`, where log2 of the number of
    supports, binomial(d_in, degree), is the least that any code of fixed length can have.

    Example:
        >>> column_bits(576, 7), column_bits(576, 200)  # 112 and 3,200 as 16-bit integers
        (57, 576)
    """
    return degree * _low_bits(d_in, degree) + _high_bits(d_in, degree)


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
    low = _low_bits(mask.d_in, mask.degree)
    gaps = mask.rows.astype(np.int64) - np.arange(mask.degree)
    bits = np.zeros((mask.n_latents, column_bits(mask.d_in, mask.degree)), dtype=bool)
    written = mask.degree * low
    bits[:, :written] = ((gaps[:, :, None] >> np.arange(low)) & 1).reshape(mask.n_latents, written)
    ones = written + (gaps >> low) + np.arange(mask.degree)
    np.put_along_axis(bits, ones, True, axis=1)
    return np.packbits(bits)


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
    each = column_bits(d_in, degree)
    size = -(-n_latents * each // 8)
    if packed.dtype != np.uint8 or packed.shape != (size,):
        raise ExpanderSaeError(
            f"expected packed rows as uint8 [{size}] for d_in {d_in}, n_latents {n_latents} and degree {degree}; got "
            f"{packed.dtype} {list(packed.shape)}"
        )
    low = _low_bits(d_in, degree)
    bits = np.unpackbits(packed, count=n_latents * each).reshape(n_latents, each)
    written = degree * low
    high = bits[:, written:]
    if bool((high.sum(axis=1) != degree).any()):
        raise ExpanderSaeError(f"expected {degree} rows in every packed column; some have more or fewer: it is damaged")
    gaps = (np.nonzero(high)[1].reshape(n_latents, degree) - np.arange(degree)) << low
    gaps |= (bits[:, :written].reshape(n_latents, degree, low).astype(np.int64) << np.arange(low)).sum(axis=2)
    rows = gaps + np.arange(degree)
    if int(rows.max()) >= d_in:
        raise ExpanderSaeError(f"expected packed rows below d_in = {d_in}; got {int(rows.max())}: it is damaged")
    return rows.astype(row_dtype(d_in))


def _high_bits(d_in: int, degree: int) -> int:
    return degree + ((d_in - degree) >> _low_bits(d_in, degree))


def _low_bits(d_in: int, degree: int) -> int:
    sizes = [degree * low + degree + ((d_in - degree) >> low) for low in range(d_in.bit_length())]
    return sizes.index(min(sizes))
