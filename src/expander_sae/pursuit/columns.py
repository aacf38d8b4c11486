"""What the definitions of pursuit read of a dictionary, in plain PyTorch: every device, and float64."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from expander_sae.ops import Codes, sparse_decode
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.in_full import in_full
from expander_sae.ops.ties import EqualColumns, equal_columns, fingerprints

MAX_GRAM = 2**25
"""Entries of a dense dictionary's Gram matrix, if it is made: 256 MB."""


def with_gram(dictionary: Dictionary, tokens: int, slots: int) -> Dictionary:
    """The dictionary with its Gram matrix, where that costs less than the inner products of so many supports.

    Least squares needs about slots^2 inner products of columns per token. Between dense columns each gathers 2 d_in
    numbers, at a sixteenth of the speed at which one matrix product makes all n_latents^2 of them.
    """
    n = dictionary.n_latents
    if dictionary.rows is not None or n**2 > MAX_GRAM or n**2 > 16 * tokens * slots**2:
        return dictionary
    values = dictionary.decoder.double()
    return replace(dictionary, gram_matrix=values @ values.T)


def correlate(vectors: Tensor, dictionary: Dictionary) -> Tensor:
    """All correlations `W^T r` of vectors [batch, d_in]: materialises [batch, n_latents].

    `Pursuit` hands tokens over in chunks, so that this never exceeds 64 MB at float32. O(degree * n_latents) per token.
    """
    if dictionary.rows is None:
        return vectors @ dictionary.decoder.T
    # One pass over r^T: a latent's bag is the sum of `degree` rows of it, with no [batch, n_latents, degree] between.
    bags = F.embedding_bag(dictionary.rows, vectors.T.contiguous(), per_sample_weights=dictionary.decoder, mode="sum")
    return bags.T.contiguous()


def correlate_support(vectors: Tensor, dictionary: Dictionary, indices: Tensor) -> Tensor:
    """`<w_j, r>` of vectors [batch, d_in] with their own columns indices [batch, t], in O(t * degree) per token."""
    chosen = dictionary.decoder[indices].to(vectors.dtype)
    if dictionary.rows is None:
        return torch.einsum("btr,br->bt", chosen, vectors)
    batch, t = indices.shape
    seen = vectors.gather(1, dictionary.rows[indices].reshape(batch, -1)).reshape(batch, t, -1)
    return (chosen * seen).sum(2)


def columns(dictionary: Dictionary, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """The columns `w_j` of latents [batch] in full, [batch, d_in]."""
    rows = None if dictionary.rows is None else dictionary.rows[latents]
    return in_full(rows, dictionary.decoder[latents].to(dtype), dictionary.d_in)


def support_gram(dictionary: Dictionary, indices: Tensor, dtype: torch.dtype) -> Tensor:
    """Gram matrices `W_S^T W_S` [batch, t, t] of supports [batch, t], in O(t * (d_in + t * degree)) per token.

    A sparse dictionary's by one column of the Gram matrix at a time, so that no [batch, t, d_in] is held.
    """
    if dictionary.gram_matrix is not None:
        return dictionary.gram_matrix[indices[:, :, None], indices[:, None, :]].to(dtype)
    if dictionary.rows is None:
        chosen = dictionary.decoder[indices].to(dtype)
        return chosen @ chosen.transpose(1, 2)
    found = [
        correlate_support(columns(dictionary, indices[:, i], dtype), dictionary, indices)
        for i in range(indices.shape[1])
    ]
    return torch.stack(found, dim=2)


def decode(dictionary: Dictionary, indices: Tensor, coefficients: Tensor) -> Tensor:
    """`sum_i z_i w_{S_i}` [batch, d_in] of supports and coefficients [batch, t], in O(t * degree) per token."""
    coefficients = coefficients.to(dictionary.decoder.dtype)
    if dictionary.rows is None:  # no [batch, t, d_in] between
        return F.embedding_bag(indices, dictionary.decoder, per_sample_weights=coefficients, mode="sum")
    codes = Codes(indices, coefficients)
    # The definition, not the kernel: every device and float64 in the same few lines.
    return sparse_decode(codes, dictionary.rows, dictionary.decoder, dictionary.d_in, backend="reference")


def repeated_columns(dictionary: Dictionary) -> Tensor:
    """bool [n_latents]: columns equal to an earlier one bit for bit (or to its negative, if signed), in O(n * degree).

    Methods without a least-squares step have no pivot that would notice a repetition, so they leave these out.
    """
    repeated = torch.zeros(dictionary.n_latents, dtype=torch.bool, device=dictionary.decoder.device)
    repeated[equals(dictionary).later] = True
    return repeated


def equals(dictionary: Dictionary) -> EqualColumns:
    """Columns that repeat an earlier one, whose scores are the same by definition and not by rounding."""
    return equal_columns(fingerprints(dictionary.rows, dictionary.decoder, dictionary.d_in, signed=dictionary.signed))
