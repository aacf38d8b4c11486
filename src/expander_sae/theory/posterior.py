"""Certificates of single codes: what is true of this support and this activation, checked after the fact."""

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes, Dictionary
from expander_sae.records import ExpanderSaeError

from .factors import factor_supports
from .rows import with_rows
from .sweep import SLACK, sweep_columns

_ENTRIES = 1 << 24  # float64 numbers kept at once for a batch of tokens


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
    """lasso_low < lasso_high: for every gamma between, 1/2 ||y - W x||^2 + gamma ||x||_1 has support exactly S.
    lasso_low is inf where the margin is not positive."""
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
    dictionary: Dictionary,
    *,
    nonnegative: bool = False,
    full: bool = True,
) -> PosteriorCertificates:
    """Check every code of a batch. Zero code values are unused slots, as in `Codes`; bias is the caller's to subtract.

    Per token O(k^2 d_in + k^3) for G and its eigenvalues, O(n_latents degree) for a and b, and with `full`
    O(k^2 n_latents) for X. Memory O(d_in + k^2) per token of a batch of some thousand tokens.

    Args:
        x: activations y [batch, d_in], the decoder's centre or bias already taken away.
        codes: indices and values [batch, k].
        dictionary: its columns, scaled to unit length here; its center and encoder are not looked at.
        nonnegative: codes and alternatives are x >= 0 (TopK after ReLU).
        full: also the tests that need X: exact_recovery, omp, distance, swap_gain.

    Raises:
        ExpanderSaeError: shapes that do not fit, NaN, a repeated active index, or a zero column.

    Source: Fuchs, IEEE Trans. Information Theory 50, 2004 (b and the l1 minimiser; KKT for the Lasso
    interval); Tropp 2004 (exact recovery condition). Proofs in docs/concepts/what-is-guaranteed.md.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(2))
        >>> codes = Codes(torch.tensor([[0]]), torch.tensor([[2.0]]))
        >>> bool(posterior_certificates(torch.tensor([[2.0, 0.0]]), codes, w).fuchs[0])
        True
    """
    x, indices, active, w = _checked(x, codes, dictionary)
    step = max(1, _ENTRIES // (indices.shape[1] ** 2 + 4 * x.shape[1] + 8 * indices.shape[1]))
    parts = [
        _certify(x[at : at + step].double(), indices[at : at + step], active[at : at + step], w,
                 nonnegative, full)
        for at in range(0, len(x), step)
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
        raise ExpanderSaeError(f"expected k from 1 to {scores.shape[1] - 1}; got {k}.")
    top = scores.topk(k + 1, dim=1).values
    return top[:, k - 1] - top[:, k]


def _certify(
    y: Tensor, indices: Tensor, active: Tensor, w: Dictionary, nonnegative: bool, full: bool
) -> PosteriorCertificates:
    factors = factor_supports(y, indices, active, w)
    off = sweep_columns(factors, indices, active, w, nonnegative=nonnegative, full=full)
    scale = y.norm(dim=1)  # rounding errors of x and of a are relative to it
    independent, size = factors.independent, factors.refit.abs()
    margin = torch.where(independent, 1 - off.reach, -torch.inf)
    signs_fit = (((factors.refit if nonnegative else size) > SLACK * scale[:, None]) | ~active).all(dim=1)
    fuchs = (margin > SLACK) & signs_fit
    shrink = factors.sign * factors.pull
    high = torch.where((shrink > 0) & active, size / shrink.clamp_min(1e-300), torch.inf).amin(dim=1)
    low = torch.where(margin > 0, off.low, torch.inf)
    lasso = fuchs & (low + SLACK * scale < high)
    recovery, distance, gain = 1 - off.spread, off.distance, off.gain
    if full:
        recovery = torch.where(independent, recovery, -torch.inf)
        gain = torch.where(independent, gain, torch.inf)
        distance = torch.where(independent, distance, 0.0)
    norm = (factors.inverse * active[:, :, None] * active[:, None, :]).abs().sum(dim=2).amax(dim=1)
    weakest = size.masked_fill(~active, torch.inf).amin(dim=1)
    omp = (recovery > SLACK) & (recovery * weakest > off.outside * norm + SLACK * scale)
    coverage, any_support = _floors(y, indices, active, w)
    return PosteriorCertificates(
        active.sum(dim=1), factors.lowest.clamp_min(0).sqrt(), margin, fuchs, low, high, lasso, recovery, omp,
        distance, gain, factors.residual.square().sum(dim=1), coverage, any_support,
    )  # fmt: skip


def _floors(y: Tensor, indices: Tensor, active: Tensor, w: Dictionary) -> tuple[Tensor, Tensor]:
    """Energy of y outside N(S), and outside its |S| d largest entries, [batch] each."""
    d_in = y.shape[1]
    # A slot of width d_in takes the rows of unused codes and is cut off.
    met = torch.where(active[:, :, None], w.rows_of(indices), d_in).reshape(len(y), -1)
    uncovered = torch.cat([y, torch.zeros_like(y[:, :1])], dim=1).scatter(1, met, 0.0)[:, :d_in]
    energy = y.square().sort(dim=1).values.cumsum(dim=1)
    free = (d_in - active.sum(dim=1) * w.degree).clamp_min(0)
    any_support = torch.where(free > 0, energy.gather(1, (free - 1).clamp_min(0)[:, None])[:, 0], 0.0)
    return uncovered.square().sum(dim=1), any_support


def _checked(x: Tensor, codes: Codes, dictionary: Dictionary) -> tuple[Tensor, Tensor, Tensor, Dictionary]:
    """The activations, int64 indices, which slots are in use, and the dictionary with unit columns in float64, on
    ascending int64 rows (all of them, where it is dense)."""
    indices, code = codes
    dictionary.check_width(x)
    if indices.shape != code.shape or indices.ndim != 2 or len(indices) != len(x):
        raise ExpanderSaeError(
            f"expected codes [batch, k] of x [batch, d_in]; got {tuple(indices.shape)} and {tuple(code.shape)} for "
            f"{tuple(x.shape)}."
        )
    if not indices.shape[1] or not len(x):
        raise ExpanderSaeError("expected at least one token and one code slot; got none.")
    values, n_latents = dictionary.decoder.detach().double(), dictionary.n_latents
    if not (x.isfinite().all() and code.isfinite().all() and values.isfinite().all()):
        raise ExpanderSaeError("expected finite activations, codes and values; got NaN or inf.")
    if not 0 <= int(indices.min()) <= int(indices.max()) < n_latents:
        raise ExpanderSaeError(f"expected code indices in [0, {n_latents}); got others.")
    active = code != 0
    # Unused slots get distinct negative keys, so that only active repetitions collide.
    keys = torch.where(active, indices, -1 - torch.arange(indices.shape[1], device=x.device)).sort(dim=1).values
    if (keys[:, 1:] == keys[:, :-1]).any():
        raise ExpanderSaeError("expected the active latents of a token to be distinct; got one twice.")
    length = values.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        raise ExpanderSaeError("expected columns with a non-zero value; got a zero column. Remove it.")
    rows, order = with_rows(dictionary).long().sort(dim=1)
    w = Dictionary(rows, (values / length).gather(1, order), dictionary.d_in, rows_checked=True)
    return x, indices.long(), active, w
