"""Least squares on the supports of a batch, in float64: what every certificate of a code starts from."""

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Dictionary
from expander_sae.ops.autograd import own_precision

SINGULAR = 1e-10  # Gram eigenvalues up to it: the support counts as dependent
_ENTRIES = 1 << 21  # float64 numbers in the dense columns of a batch of supports


class Factors(NamedTuple):
    """One entry per token, float64. Unused slots have a one on the diagonal of G, coefficient zero and sign zero."""

    inverse: Tensor
    """G^-1 [batch, k, k], G = W_S^T W_S; a pseudo-inverse where S is dependent."""
    lowest: Tensor
    """Smallest eigenvalue of G [batch]."""
    independent: Tensor
    """Whether it is above rounding, bool [batch]."""
    refit: Tensor
    """x = G^-1 W_S^T y [batch, k]."""
    residual: Tensor
    """r = y - W_S x [batch, d_in]."""
    sign: Tensor
    """s = sign x [batch, k]."""
    pull: Tensor
    """G^-1 s [batch, k]."""
    dual: Tensor
    """h = W_S G^-1 s [batch, d_in]."""


@own_precision
def factor_supports(y: Tensor, indices: Tensor, active: Tensor, w: Dictionary) -> Factors:
    """Factor G for every token, one Cholesky each. O(k^2 d_in + k^3) per token.

    Args:
        y: activations [batch, d_in], float64.
        indices: [batch, k].
        active: which slots are in use, bool [batch, k].
        w: unit columns in float64, rows int64.
    """
    step = max(1, _ENTRIES // (indices.shape[1] * y.shape[1]))
    parts = [
        _factor(y[at : at + step], indices[at : at + step], active[at : at + step], w) for at in range(0, len(y), step)
    ]
    return Factors(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _factor(y: Tensor, indices: Tensor, active: Tensor, w: Dictionary) -> Factors:
    support = y.new_zeros(*indices.shape, y.shape[1])
    support.scatter_(2, w.rows_of(indices), w.decoder[indices])
    support *= active[:, :, None]
    # Unused slots decouple. The smallest eigenvalue of a unit-diagonal G is at most 1, so the ones never are the
    # minimum unless S is empty.
    gram = support @ support.mT + torch.diag_embed((~active).to(y.dtype))
    lowest = torch.linalg.eigvalsh(gram)[:, 0]
    lower, failed = torch.linalg.cholesky_ex(gram)
    independent = (lowest > SINGULAR) & (failed == 0)
    inverse = torch.cholesky_inverse(
        torch.where(
            independent[:, None, None], lower, torch.eye(len(gram[0]), dtype=torch.float32, device="cpu").to(gram)
        )
    )
    if not independent.all():
        inverse[~independent] = _pseudo_inverse(gram[~independent])
    refit = (inverse @ (support @ y[:, :, None]))[:, :, 0]
    sign = refit.sign() * active
    pull = (inverse @ sign[:, :, None])[:, :, 0]
    both = torch.stack([refit, pull], dim=1) @ support
    return Factors(inverse, lowest, independent, refit, y - both[:, 0], sign, pull, both[:, 1])


def _pseudo_inverse(gram: Tensor) -> Tensor:
    """Inverse on the eigenvectors that are not null, so that the residual is right where the code is not unique."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    null = eigenvalues <= SINGULAR
    return (vectors / eigenvalues.masked_fill(null, torch.inf)[:, None, :]) @ vectors.mT
