"""What pursuit reads of a dictionary: correlations, columns, and reconstructions."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from expander_sae.ops import Codes, sparse_decode
from expander_sae.ops.checks import check_dictionary, shape_of
from expander_sae.records import ExpanderSaeError

MAX_GRAM = 2**25
"""Entries of a dense dictionary's Gram matrix, if it is made: 256 MB."""


@runtime_checkable
class SparseDictionary(Protocol):
    """Anything with a mask and values: an `ExpanderSae`, a `DenseTopKSae` (no `rows`), or a `Dictionary`."""

    @property
    def values(self) -> Tensor:
        """Values [n_latents, degree], columns of unit length; may require grad."""
        ...

    @property
    def d_in(self) -> int:
        """Length of an activation."""
        ...


@dataclass(frozen=True)
class Dictionary:
    """W [d_in, n_latents] as rows and values; `rows` None means dense, with values [n_latents, d_in]."""

    rows: Tensor | None
    """int64 [n_latents, degree], distinct in a column."""
    values: Tensor
    """[n_latents, degree]."""
    d_in: int
    """Length of an activation."""
    gram: Tensor | None = None
    """float64 `W^T W` [n_latents, n_latents] where `with_gram` made it."""

    @property
    def n_latents(self) -> int:
        """Columns."""
        return self.values.shape[0]


def as_dictionary(dictionary: SparseDictionary | Tensor) -> Dictionary:
    """A checked `Dictionary` of a matrix [n_latents, d_in] or of anything with `values`, `d_in` and maybe `rows`.

    Raises:
        ExpanderSaeError: it is neither, or its shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> as_dictionary(torch.eye(3)).d_in
        3
    """
    if isinstance(dictionary, Tensor):
        if dictionary.ndim != 2:
            raise ExpanderSaeError(
                f"expected a dense dictionary as [n_latents, d_in], one column of W per row; got {shape_of(dictionary)}"
            )
        rows, values, d_in = None, dictionary, dictionary.shape[1]
    elif isinstance(dictionary, SparseDictionary):
        rows, values, d_in = getattr(dictionary, "rows", None), dictionary.values, dictionary.d_in
    else:
        raise ExpanderSaeError(
            f"expected a dictionary with `values` and `d_in` (and `rows` if it is sparse), or a matrix "
            f"[n_latents, d_in]; got {type(dictionary).__name__}"
        )
    check_dictionary(rows, values, d_in)
    return Dictionary(None if rows is None else rows.long(), values, d_in)


def with_gram(dictionary: Dictionary, tokens: int, slots: int) -> Dictionary:
    """The dictionary with its Gram matrix, where that costs less than the inner products of so many supports.

    Least squares needs about slots^2 inner products of columns per token. Between dense columns each gathers 2 d_in
    numbers, at a sixteenth of the speed at which one matrix product makes all n_latents^2 of them.
    """
    n = dictionary.n_latents
    if dictionary.rows is not None or n**2 > MAX_GRAM or n**2 > 16 * tokens * slots**2:
        return dictionary
    values = dictionary.values.double()
    return replace(dictionary, gram=values @ values.T)


def correlate(vectors: Tensor, dictionary: Dictionary) -> Tensor:
    """All correlations `W^T r` of vectors [batch, d_in]: materialises [batch, n_latents].

    `pursue` hands tokens over in chunks, so that this never exceeds 64 MB at float32. O(degree * n_latents) per token.
    """
    if dictionary.rows is None:
        return vectors @ dictionary.values.T
    # One pass over r^T: a latent's bag is the sum of `degree` rows of it, with no [batch, n_latents, degree] between.
    bags = F.embedding_bag(dictionary.rows, vectors.T.contiguous(), per_sample_weights=dictionary.values, mode="sum")
    return bags.T.contiguous()


def correlate_support(vectors: Tensor, dictionary: Dictionary, indices: Tensor) -> Tensor:
    """`<w_j, r>` of vectors [batch, d_in] with their own columns indices [batch, t], in O(t * degree) per token."""
    chosen = dictionary.values[indices].to(vectors.dtype)
    if dictionary.rows is None:
        return torch.einsum("btr,br->bt", chosen, vectors)
    batch, t = indices.shape
    seen = vectors.gather(1, dictionary.rows[indices].reshape(batch, -1)).reshape(batch, t, -1)
    return (chosen * seen).sum(2)


def columns(dictionary: Dictionary, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """The columns `w_j` of latents [batch] in full, [batch, d_in]."""
    chosen = dictionary.values[latents].to(dtype)
    if dictionary.rows is None:
        return chosen
    return chosen.new_zeros(latents.shape[0], dictionary.d_in).scatter(1, dictionary.rows[latents], chosen)


def support_gram(dictionary: Dictionary, indices: Tensor, dtype: torch.dtype) -> Tensor:
    """Gram matrices `W_S^T W_S` [batch, t, t] of supports [batch, t], in O(t * (d_in + t * degree)) per token.

    A sparse dictionary's by one column of the Gram matrix at a time, so that no [batch, t, d_in] is held.
    """
    if dictionary.gram is not None:
        return dictionary.gram[indices[:, :, None], indices[:, None, :]].to(dtype)
    if dictionary.rows is None:
        chosen = dictionary.values[indices].to(dtype)
        return chosen @ chosen.transpose(1, 2)
    found = [
        correlate_support(columns(dictionary, indices[:, i], dtype), dictionary, indices)
        for i in range(indices.shape[1])
    ]
    return torch.stack(found, dim=2)


def decode(dictionary: Dictionary, indices: Tensor, coefficients: Tensor) -> Tensor:
    """`sum_i z_i w_{S_i}` [batch, d_in] of supports and coefficients [batch, t], in O(t * degree) per token."""
    coefficients = coefficients.to(dictionary.values.dtype)
    if dictionary.rows is None:  # no [batch, t, d_in] between
        return F.embedding_bag(indices, dictionary.values, per_sample_weights=coefficients, mode="sum")
    codes = Codes(indices, coefficients)
    # The definition, not the kernel: every device and float64 in the same few lines.
    return sparse_decode(codes, dictionary.rows, dictionary.values, dictionary.d_in, backend="reference")


def repeated_columns(dictionary: Dictionary, *, signed: bool) -> Tensor:
    """bool [n_latents]: columns equal to an earlier one bit for bit (or to its negative, if signed), in O(n * degree).

    Methods without a least-squares step have no pivot that would notice a repetition, so they leave these out. Columns
    are compared by a 64-bit fingerprint that does not depend on the order of rows or on explicit zeros.
    """
    values = dictionary.values.detach()
    generator = torch.Generator(device="cpu").manual_seed(0)
    keys = torch.randint(-(2**62), 2**62, (dictionary.d_in,), generator=generator, dtype=torch.int64, device="cpu")
    keys = keys * 2 + 1
    keys = keys.to(values.device)
    weights = keys if dictionary.rows is None else keys[dictionary.rows]
    prints = _fingerprint(values, weights)
    if signed:
        prints = torch.minimum(prints, _fingerprint(-values, weights))
    ordered, order = prints.sort(stable=True)
    repeated = torch.zeros_like(prints, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return repeated


def _fingerprint(values: Tensor, weights: Tensor) -> Tensor:
    """Wrapping integer sums: exact in any order."""
    kind = torch.int64 if values.dtype == torch.float64 else torch.int32
    bits = (values + 0.0).contiguous().view(kind).long()  # + 0.0 turns -0 into 0
    # Mix before weighting: a sign is the top bit alone, which an even number of products would cancel.
    mixed = bits * 0x2545F4914F6CDD1D
    return ((mixed ^ (mixed >> 29)) * weights).sum(1)
