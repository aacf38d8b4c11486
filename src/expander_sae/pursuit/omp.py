"""Orthogonal matching pursuit, one column or a block of columns per stage; batched over tokens."""

import math

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.ties import largest

from .dictionary import Dictionary, correlate, equals
from .selection import SMALLEST_SCORE, pack, score
from .support import Support


def omp(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    *,
    block: int = 1,
    spare: int = 0,
    signed: bool = True,
    tolerance: float = 0.0,
    warm_start: Codes | None = None,
) -> Codes:
    """Codes [batch, k] by orthogonal matching pursuit with `block` columns per stage.

    From r = x, repeat: `S <- S + the block largest score(W^T r)`, `z = argmin ||x - W_S z||`, `r = x - W_S z`; the
    score is |<w_j, r>| if signed and <w_j, r> otherwise. block = 1 is OMP (Pati, Rezaiifar, Krishnaprasad 1993), larger
    ones generalised OMP (Wang, Kwon, Shim 2012), block = k one-shot least squares. A token stops at k columns, at ||r||
    <= tolerance * ||x||, when no score exceeds 1e-5 ||x||, or when a stage adds nothing. Columns whose squared distance
    to the span of S is at most 1e-5 of their squared norm are skipped, so duplicates never share a support. With
    `spare`, a stage picks so many more and, while S has grown by more than `block`, drops the column whose absence
    adds least to ||r||^2: forward-backward pursuit (Karahanoglu, Erdogan 2013).

    Args:
        x: activations [batch, d_in], already centered, in the dtype of the values.
        dictionary: columns of unit length.
        k: most columns per token.
        block: columns per stage.
        spare: columns a stage picks beyond those and drops again.
        signed: pick by absolute correlation; otherwise only positive correlations are picked.
        tolerance: relative residual at which a token stops.
        warm_start: codes to start the support from; its zeros are unused slots.

    Example:
        >>> import torch
        >>> from expander_sae.pursuit import as_dictionary
        >>> omp(torch.tensor([[3.0, 0.0, -4.0]]), as_dictionary(torch.eye(3)), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """
    norm, same = x.norm(dim=1), equals(dictionary, signed=signed)
    support = Support(dictionary, x, k + spare)
    coefficients, residual = torch.zeros_like(support.projections), x
    if warm_start is not None:
        support.extend(warm_start.indices, warm_start.values != 0)
        coefficients = support.solve()
        residual = support.residual(coefficients)
    alive = norm > 0
    while True:
        alive &= (support.count < k) & (residual.norm(dim=1) > tolerance * norm)
        if not bool(alive.any()):
            break
        scores = same.level(score(correlate(residual, dictionary), signed))
        # A chosen column has a residual correlation of rounding size; at 0 it is never above the smallest score.
        scores[support.members()] = 0.0
        found, picked = largest(scores, block + spare)
        before = support.count.clone()
        wanted = alive[:, None] & (found > SMALLEST_SCORE * norm[:, None])
        support.extend(picked, wanted)
        alive &= support.count > before
        coefficients = support.solve()
        if spare:
            support, coefficients = _without_weakest(support, coefficients, (before + block).clamp(max=k))
        residual = support.residual(coefficients)
    return pack(support.indices[:, :k], coefficients[:, :k].to(x.dtype), k, dictionary.n_latents, signed=signed)


def _without_weakest(support: Support, coefficients: Tensor, keep: Tensor) -> tuple[Support, Tensor]:
    """Supports and coefficients after dropping argmin `z_j^2 / (G_S^-1)_jj` until at most keep [batch] are left."""
    while bool((support.count > keep).any()):
        inverse = torch.cholesky_inverse(support.factor).diagonal(dim1=1, dim2=2)
        cost = torch.where(support.used, coefficients.square() / inverse, math.inf)
        wanted = support.used.clone()
        over = support.count > keep
        wanted[over, cost[over].argmin(dim=1)] = False
        smaller = Support(support.dictionary, support.x, support.capacity)
        smaller.extend(support.indices, wanted)
        support, coefficients = smaller, smaller.solve()
    return support, coefficients
