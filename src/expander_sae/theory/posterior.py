"""Certificates of single codes: what is true of this support and this activation, checked after the fact."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError

_SLACK = 1e-9  # what rounding in float64 may hide
_SINGULAR = 1e-10  # Gram eigenvalues below it: the support counts as dependent
_ENTRIES = 1 << 24  # float64 numbers in the largest temporary array


class PosteriorCertificates(NamedTuple):
    """One entry per token, all [batch]; booleans are True only where the inequality holds beyond rounding.

    S is the set of active latents, G = W_S^T W_S, x its least-squares code, r = y - W_S x, s = sign x,
    h = W_S G^-1 s, a = W^T r, b = W^T h, X = G^-1 W_S^T W.
    """

    active: Tensor
    """|S|, int64."""
    sigma_min: Tensor
    """Smallest singular value of W_S; the refit amplifies noise by at most its inverse."""
    fuchs_margin: Tensor
    """1 - max_{j not in S} |b_j| (of b_j if nonnegative); -inf if S is dependent."""
    fuchs: Tensor
    """x is the unique minimiser of ||x||_1 subject to W x = W_S x (with x >= 0 if nonnegative)."""
    lasso_low: Tensor
    lasso_high: Tensor
    lasso: Tensor
    """lasso_low < lasso_high: for every gamma between, 1/2 ||y - W x||^2 + gamma ||x||_1 has support exactly S."""
    exact_recovery: Tensor
    """ERC(S) = 1 - max_{j not in S} ||X_j||_1; NaN if it was not asked for."""
    omp: Tensor
    """|S| steps of OMP on y itself return S."""
    distance: Tensor
    """min_{j not in S} distance of w_j from span W_S; positive: almost every code on S is unique among those with
    at most |S| active latents. NaN if it was not asked for."""
    swap_gain: Tensor
    """The most by which exchanging one latent of S lowers ||r||^2; at most 0: S is 1-swap optimal. NaN if not asked."""
    error: Tensor
    """||r||^2 of the least-squares refit."""
    coverage_floor: Tensor
    """Energy of y outside N(S): no values on this support, and no code, leave less."""
    any_support_floor: Tensor
    """Energy of y outside its |S| d largest entries: no support of this size leaves less."""


def posterior_certificates(
    x: Tensor,
    codes: Codes,
    rows: Tensor,
    values: Tensor,
    *,
    nonnegative: bool = False,
    full: bool = True,
) -> PosteriorCertificates:
    """Check every code of a batch. Zero code values are unused slots, as in `Codes`; bias is the caller's to subtract.

    Per token O(k^2 d_in + k^3) for G and its eigenvalues, O(n_latents degree) for a and b, and with `full`
    O(k n_latents degree + k^2 n_latents) for X.

    Args:
        x: activations y [batch, d_in], the decoder's centre or bias already taken away.
        codes: indices and values [batch, k].
        rows: [n_latents, degree], any integer type.
        values: decoder values [n_latents, degree]; columns are scaled to unit length here.
        nonnegative: codes and alternatives are x >= 0 (TopK after ReLU).
        full: also the tests that need X: exact_recovery, omp, distance, swap_gain.

    Raises:
        ExpanderSaeError: shapes that do not fit, NaN, a repeated active index, or a zero column.

    Source: Fuchs, IEEE Trans. Information Theory 50, 2004 (b and the l1 minimiser; KKT for the Lasso
    interval); Tropp 2004 (exact recovery condition). Proofs in docs/certificates.md.

    Example:
        >>> rows, values = torch.tensor([[0], [1]]), torch.ones(2, 1)
        >>> codes = Codes(torch.tensor([[0]]), torch.tensor([[2.0]]))
        >>> bool(posterior_certificates(torch.tensor([[2.0, 0.0]]), codes, rows, values).fuchs[0])
        True
    """
    x, indices, active, rows, values = _checked(x, codes, rows, values)
    n_latents, degree = rows.shape
    per_token = max(n_latents * (indices.shape[1] if full else 1), x.shape[1] * indices.shape[1], 1)
    step = max(1, _ENTRIES // per_token)
    offsets = torch.arange(0, (n_latents + 1) * degree, degree, device=x.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        size = (n_latents, x.shape[1])
        transposed = torch.sparse_csr_tensor(offsets, rows.ravel(), values.ravel(), size, check_invariants=True)
    parts = [
        _certify(x[at : at + step], indices[at : at + step], active[at : at + step], rows, values, transposed,
                 nonnegative, full)
        for at in range(0, max(1, len(x)), step)
    ]  # fmt: skip
    return PosteriorCertificates(*(torch.cat(column) for column in zip(*parts, strict=True)))


def encoder_margin(scores: Tensor, k: int) -> Tensor:
    """z_(k) - z_(k+1) of the encoder's scores [batch, n_latents], [batch].

    The selected set is unchanged under every perturbation of y by e with 2 ||W^T e||_inf below the margin.

    Raises:
        ExpanderSaeError: k outside 1..n_latents - 1.

    Example:
        >>> encoder_margin(torch.tensor([[3.0, 1.0, 2.5]]), 1).tolist()
        [0.5]
    """
    if not 1 <= k < scores.shape[1]:
        raise ExpanderSaeError(f"expected k from 1 to {scores.shape[1] - 1}, saw {k}.")
    top = scores.topk(k + 1, dim=1).values
    return top[:, k - 1] - top[:, k]


def unique_by_coverage(codes: Codes, rows: Tensor, *, d_in: int) -> Tensor:
    """Whether the mask alone makes almost every code on each support unique, bool [batch]. O(n_latents degree) each.

    S peels to nothing (so W_S is injective whatever its values) and no other column has all its rows in N(S)
    (so none is in span W_S).

    Raises:
        ExpanderSaeError: an index outside the mask.

    Source: dimension count: a second support's codes fill a proper subspace of R^S. See docs/certificates.md.

    Example:
        >>> codes = Codes(torch.tensor([[0]]), torch.ones(1, 1))
        >>> unique_by_coverage(codes, torch.tensor([[0, 1], [1, 2]]), d_in=3).tolist()
        [True]
    """
    rows = rows.long()
    if codes.indices.numel() and not 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < len(rows):
        raise ExpanderSaeError(f"expected code indices in [0, {len(rows)}).")
    out = []
    for indices, code in zip(codes.indices, codes.values, strict=True):
        chosen = indices[code != 0]
        covered = torch.zeros(d_in, dtype=torch.bool, device=rows.device)
        covered[rows[chosen]] = True
        free = ~covered[rows].all(dim=1)
        free[chosen] = True
        left = chosen
        while len(left):
            times = torch.bincount(rows[left].ravel(), minlength=d_in)
            keep = ~(times[rows[left]] == 1).any(dim=1)
            if keep.all():
                break
            left = left[keep]
        out.append(bool(free.all()) and len(left) == 0)
    return torch.tensor(out, dtype=torch.bool, device=rows.device)


def _certify(
    y: Tensor, indices: Tensor, active: Tensor, rows: Tensor, values: Tensor, transposed: Tensor,
    nonnegative: bool, full: bool,
) -> PosteriorCertificates:  # fmt: skip
    batch, d_in = y.shape
    k = indices.shape[1]
    support = torch.zeros(batch, k, d_in, dtype=y.dtype, device=y.device)
    support.scatter_(2, rows[indices], values[indices])
    support *= active[:, :, None]
    # Unused slots get a one on the diagonal: they decouple, with coefficient zero. The smallest eigenvalue of a
    # unit-diagonal G is at most 1, so they never are the minimum unless S is empty.
    gram = support @ support.mT + torch.diag_embed((~active).to(y.dtype))
    eigenvalues, vectors = torch.linalg.eigh(gram)
    lowest = eigenvalues[:, 0] if k else torch.ones(batch, dtype=y.dtype, device=y.device)
    independent = lowest > _SINGULAR
    inverse = (vectors / eigenvalues.clamp_min(_SINGULAR)[:, None, :]) @ vectors.mT
    refit = (inverse @ (support @ y[:, :, None]))[:, :, 0]
    residual = y - (refit[:, None, :] @ support)[:, 0]
    scale = y.norm(dim=1)  # rounding errors of x and of a are relative to it
    sign = refit.sign() * active
    pull = (inverse @ sign[:, :, None])[:, :, 0]
    dual = (pull[:, None, :] @ support)[:, 0]
    a, b = (transposed @ residual.mT).mT, (transposed @ dual.mT).mT
    inside = _membership(indices, active, len(rows))

    reach = (b if nonnegative else b.abs()).masked_fill(inside, -torch.inf).amax(dim=1)
    margin = torch.where(independent, 1 - reach, -torch.inf)
    signed = refit if nonnegative else refit.abs()
    signs_fit = ((signed > _SLACK * scale[:, None]) | ~active).all(dim=1)
    fuchs = (margin > _SLACK) & signs_fit
    low = a / (1 - b).clamp_min(_SLACK)
    low = low.clamp_min(0) if nonnegative else torch.maximum(low, -a / (1 + b).clamp_min(_SLACK))
    low = low.masked_fill(inside, 0.0).amax(dim=1)
    shrink = sign * pull
    high = torch.where((shrink > 0) & active, refit.abs() / shrink.clamp_min(1e-300), torch.inf).amin(dim=1)
    lasso = fuchs & (low + _SLACK * scale < high)

    nothing = torch.full((batch,), torch.nan, dtype=y.dtype, device=y.device)
    recovery, distance, gain = nothing, nothing, nothing
    omp = torch.zeros(batch, dtype=torch.bool, device=y.device)
    if full:
        recovery, distance, gain = _from_projections(support, inverse, refit, a, inside, active, transposed)
        recovery = torch.where(independent, recovery, -torch.inf)
        gain = torch.where(independent, gain, torch.inf)
        distance = torch.where(independent, distance, 0.0)
        spread = (inverse * active[:, :, None] * active[:, None, :]).abs().sum(dim=2).amax(dim=1)
        weakest = refit.abs().masked_fill(~active, torch.inf).amin(dim=1)
        outside = a.abs().masked_fill(inside, 0.0).amax(dim=1)
        omp = (recovery > _SLACK) & (recovery * weakest > outside * spread + _SLACK * scale)
    # A slot of width d_in takes the rows of unused codes and is cut off.
    met = torch.where(active[:, :, None], rows[indices], d_in).reshape(batch, -1)
    uncovered = torch.cat([y, torch.zeros_like(y[:, :1])], dim=1).scatter(1, met, 0.0)[:, :d_in]
    sizes = active.sum(dim=1)
    energy = y.square().sort(dim=1).values.cumsum(dim=1)
    free = (d_in - sizes * rows.shape[1]).clamp_min(0)
    any_support = torch.where(free > 0, energy.gather(1, (free - 1).clamp_min(0)[:, None])[:, 0], 0.0)
    return PosteriorCertificates(
        sizes, lowest.clamp_min(0).sqrt(), margin, fuchs, low, high, lasso, recovery, omp, distance, gain,
        residual.square().sum(dim=1), uncovered.square().sum(dim=1), any_support,
    )  # fmt: skip


def _from_projections(
    support: Tensor, inverse: Tensor, refit: Tensor, a: Tensor, inside: Tensor, active: Tensor, transposed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ERC(S), the smallest distance from span W_S, and the best swap, from X = G^-1 W_S^T W [batch, k, n_latents]."""
    batch, k, d_in = support.shape
    n_latents = transposed.shape[0]
    inner = (transposed @ support.reshape(batch * k, d_in).mT).mT.reshape(batch, k, n_latents)
    projection = inverse @ inner
    recovery = 1 - projection.abs().sum(dim=1).masked_fill(inside, 0.0).amax(dim=1)
    squared = (1 - (inner * projection).sum(dim=1)).clamp_min(0)
    distance = squared.masked_fill(inside, torch.inf).amin(dim=1).sqrt()
    # ||r||^2 of S is r; without i it grows by x_i^2 / Ginv_ii; then w_j takes away its share of what is left.
    own = inverse.diagonal(dim1=1, dim2=2)[:, :, None]
    numerator = (a[:, None, :] + refit[:, :, None] * projection / own).square()
    gain = numerator / (squared[:, None, :] + projection.square() / own).clamp_min(1e-12)
    gain -= refit.square()[:, :, None] / own
    gain.masked_fill_(inside[:, None, :] | ~active[:, :, None], -torch.inf)
    return recovery, distance, gain.amax(dim=(1, 2))


def _membership(indices: Tensor, active: Tensor, n_latents: int) -> Tensor:
    """bool [batch, n_latents]: which latents are in S. Unused slots write to a column that is cut off."""
    inside = torch.zeros(len(indices), n_latents + 1, dtype=torch.bool, device=indices.device)
    inside.scatter_(1, torch.where(active, indices, n_latents), True)
    return inside[:, :n_latents]


def _checked(x: Tensor, codes: Codes, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """float64 copies with unit columns, and which slots are in use."""
    indices, code = codes
    rows = rows.long()  # torch compares few unsigned types
    if x.ndim != 2 or indices.shape != code.shape or indices.ndim != 2 or len(indices) != len(x):
        raise ExpanderSaeError(
            f"expected x [batch, d_in] and codes [batch, k], saw {tuple(x.shape)}, {tuple(indices.shape)} and "
            f"{tuple(code.shape)}."
        )
    if rows.shape != values.shape or rows.ndim != 2:
        raise ExpanderSaeError(
            f"expected rows and values [n_latents, degree], saw {tuple(rows.shape)}, {tuple(values.shape)}."
        )
    if not indices.shape[1] or not len(x):
        raise ExpanderSaeError("expected at least one token and one code slot, saw none.")
    if not (x.isfinite().all() and code.isfinite().all() and values.isfinite().all()):
        raise ExpanderSaeError("expected finite activations, codes and values, saw NaN or inf.")
    if not 0 <= int(indices.min()) <= int(indices.max()) < len(rows) or int(rows.max()) >= x.shape[1]:
        raise ExpanderSaeError(f"expected code indices in [0, {len(rows)}) and rows in [0, {x.shape[1]}).")
    active = code != 0
    # Unused slots get distinct negative keys, so that only active repetitions collide.
    keys = torch.where(active, indices, -1 - torch.arange(indices.shape[1], device=x.device)).sort(dim=1).values
    if (keys[:, 1:] == keys[:, :-1]).any():
        raise ExpanderSaeError("expected the active latents of a token to be distinct, saw one twice.")
    wide = values.double()
    length = wide.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        raise ExpanderSaeError("expected columns with a non-zero value, saw a zero column. Remove it.")
    ordered, order = rows.sort(dim=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ExpanderSaeError("expected the rows of a column to be distinct, saw one twice. Add their values up.")
    return x.double(), indices.long(), active, ordered, (wide / length).gather(1, order)
