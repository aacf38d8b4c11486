"""How much of one SAE another one has again: by direction, by when latents fire, by subspace; and what noise leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..features import dense_columns
from .features import Features


class Matched(NamedTuple):
    """Pairs of directions, each direction in one pair at most."""

    mine: np.ndarray
    """int64 [pairs], rising."""
    theirs: np.ndarray
    """int64 [pairs]."""
    cosine: np.ndarray
    """|<w, w'>| of each pair, float64 [pairs]."""


@own_precision
@torch.no_grad()
def match_directions(mine: Tensor, theirs: Tensor, *, at_once: int = 1024) -> Matched:
    """The one-to-one pairs of directions with the largest sum of absolute cosines; the longer list keeps some alone.

    The signs are dropped, since codes may be negative in a signed SAE. The table of cosines is filled a block of rows
    at a time into the one float64 array that the assignment works on: 8 n n' bytes, 170 MB for two of 4,608 and 2.7 GB
    for two of 18,432; on one core the two took 5 and 31 seconds.

    Args:
        mine: unit vectors [n, d_in].
        theirs: unit vectors [n', d_in].
        at_once: rows of the table computed at a time.

    Raises:
        ExpanderSaeError: the two have different widths.

    Example:
        >>> import torch
        >>> axes = torch.eye(3)
        >>> found = match_directions(axes, -axes[[2, 0]])
        >>> found.mine.tolist(), found.theirs.tolist(), found.cosine.tolist()
        ([0, 2], [1, 0], [1.0, 1.0])
    """
    if mine.shape[1] != theirs.shape[1]:
        raise ExpanderSaeError(f"expected directions of one d_in; got {mine.shape[1]} and {theirs.shape[1]}")
    cost = np.empty((len(mine), len(theirs)))
    for first in range(0, len(mine), at_once):
        cost[first : first + at_once] = -(mine[first : first + at_once] @ theirs.T).abs().cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return Matched(rows, columns, -cost[rows, columns])


def best_correlation(mine: Features, theirs: Features, *, memory: int = 1 << 28) -> np.ndarray:
    """How well each latent is matched by one of another SAE's on the same tokens: max_j |corr(h_i, h'_j)|.

    Float64 [n_latents of `mine`], NaN where a latent is the same on all tokens. Several may have the same best match.

    Args:
        mine: the latents asked about.
        theirs: those of another SAE.
        memory: bytes of the table of correlations held at once.

    Raises:
        ExpanderSaeError: the two were read on different numbers of tokens.
    """
    if mine.n_tokens != theirs.n_tokens:
        raise ExpanderSaeError(
            f"expected codes of the same tokens; got {mine.n_tokens:,} and {theirs.n_tokens:,} of them"
        )
    (mean, spread), (other_mean, other_spread) = _moments(mine), _moments(theirs)
    inverse = np.divide(1.0, other_spread, out=np.zeros_like(other_spread), where=other_spread > 0)
    best = np.full(mine.n_features, np.nan)
    step = max(1, memory // (24 * theirs.n_features))  # the sparse product, the table, and one more while it is scaled
    for first in range(0, mine.n_features, step):
        part = slice(first, first + step)
        table = (mine.values[:, part].T @ theirs.values).toarray() / mine.n_tokens
        table -= np.outer(mean[part], other_mean)
        table *= inverse
        best[part] = np.abs(table).max(1)
    return np.where(spread > 0, best / np.where(spread > 0, spread, 1.0), np.nan)


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature, each float64 [features]."""
    mean = np.asarray(features.values.sum(0)).ravel() / features.n_tokens
    square = energy(features) / features.n_tokens
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0.0))


def energy(features: Features) -> np.ndarray:
    """Sum of the squared codes of each latent, float64 [features]."""
    return np.asarray(features.values.multiply(features.values).sum(0)).ravel()


@own_precision
def subspace_overlap(mine: Tensor, theirs: Tensor) -> float:
    """Mean squared cosine of the principal angles between the spans of two sets of directions.

        overlap = ||Q^T Q'||_F^2 / min(r, r')

    Q and Q' are orthonormal bases of the spans, r and r' their dimensions. 1: one span is in the other; random spans of
    r dimensions have r / d_in on the average.

    Args:
        mine: directions as rows [count, d_in].
        theirs: the same, of any count.

    Example:
        >>> import torch
        >>> subspace_overlap(torch.eye(4)[:2], torch.eye(4)[1:3])
        0.5
    """
    one, other = _basis(mine), _basis(theirs)
    least = min(one.shape[1], other.shape[1])
    return float(np.square(one.T @ other).sum() / least) if least else float("nan")


def _basis(directions: Tensor) -> np.ndarray:
    """An orthonormal basis [d_in, r] of the span of the rows."""
    vectors, lengths, _ = np.linalg.svd(directions.double().cpu().numpy().T, full_matrices=False)
    return vectors[:, lengths > 1e-6 * max(lengths.max(initial=0.0), 1e-30)]


@dataclass(frozen=True)
class Agreement:
    """What one SAE has again in another; all numbers are from 0 to 1, NaN where no latent fires."""

    pw_mcc: float
    """Mean |cosine| of columns matched one to one: the pairwise dictionary mean correlation coefficient."""
    pw_mcc_by_energy: float
    """The same, each pair with the weight of the first SAE's latent: the sum of its squared codes."""
    correlation: float
    """Mean over living latents of the largest |correlation| of activations with a latent of the other SAE."""
    correlation_by_energy: float
    """The same, weighted."""
    subspace: float
    """Overlap of the spans of the strongest columns of both; see `subspace_overlap`."""
    subspace_by_chance: float
    """What random spans of so many dimensions have."""


@torch.no_grad()
def agreement(
    sae: AbstractSae, other: AbstractSae, mine: Features, theirs: Features, *, strongest: int = 64
) -> Agreement:
    """Whether latents come back in another SAE, each counted alike and by its share of the codes' energy.

    A plain mean is ruled by the many latents that hardly fire; the weighted one says it of what the codes consist of.

    Args:
        sae: whose latents are asked about.
        other: of another seed, say.
        mine: the codes of `sae`, by `latent_features`.
        theirs: those of `other` on the same tokens.
        strongest: columns of most energy whose spans are compared, d_in / 2 at most.

    Raises:
        ExpanderSaeError: SAEs of different widths, codes of different tokens, or no column to compare.

    Source: Song et al., "Position: Mechanistic Interpretability Should Prioritize Feature Consistency in SAEs", arXiv
    2505.20254 (PW-MCC); Paulo and Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features",
    arXiv 2501.16615.

    Example:
        >>> import torch
        >>> from expander_sae import ExpanderSae
        >>> from expander_sae.evaluation.meaning import latent_features
        >>> sae, x = ExpanderSae(d_in=32, n_latents=64, degree=4, k=4).eval(), torch.randn(100, 32)
        >>> codes = latent_features("codes", sae, x)
        >>> found = agreement(sae, sae, codes, codes, strongest=8)
        >>> round(found.pw_mcc, 4), round(found.correlation, 4), round(found.subspace, 4)
        (1.0, 1.0, 1.0)
    """
    if strongest < 1:
        raise ExpanderSaeError(f"expected at least one of the strongest columns to compare; got {strongest}")
    columns, others = dense_columns(sae), dense_columns(other)
    found = match_directions(columns, others)
    weight, other_weight = energy(mine), energy(theirs)
    count = min(strongest, max(1, sae.d_in // 2), sae.n_latents, other.n_latents)
    best = best_correlation(mine, theirs)
    alive = np.isfinite(best)
    spans = [part[torch.from_numpy(_largest(of, count))] for part, of in ((columns, weight), (others, other_weight))]
    return Agreement(
        pw_mcc=float(found.cosine.mean()),
        pw_mcc_by_energy=_weighted(found.cosine, weight[found.mine]),
        correlation=_weighted(best[alive], np.ones(int(alive.sum()))),
        correlation_by_energy=_weighted(best[alive], weight[alive]),
        subspace=subspace_overlap(*spans),
        subspace_by_chance=count / sae.d_in,
    )


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:count]


def _weighted(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")


@torch.no_grad()
def under_noise(sae: AbstractSae, blocks: Iterable[Tensor], noises: Sequence[float]) -> list[dict[str, float]]:
    """For each size of noise: latents that stay, and how far code and reconstruction move.

    Noise is Gaussian, of norm eta ||x - b_dec|| for each token. Kept: |S ∩ S'| / |S| over tokens with codes S and S'.
    Energy kept: the share of ||h||^2 that is on S ∩ S'. Change of the code: ||h - h'|| / ||h||. Change of x̂:
    ||x̂ - x̂'|| / ||noise||; 1 passes the noise on. All are means over tokens.

    Args:
        sae: read by its own reading.
        blocks: activations [tokens, d_in].
        noises: eta, each above 0.

    Returns:
        `noise`, `support_kept`, `energy_kept`, `code_change` and `output_change` of each noise.
    """
    names = ("support_kept", "energy_kept", "code_change", "output_change")
    sums: list[dict[str, float]] = [dict.fromkeys(names, 0.0) for _ in noises]
    generator = torch.Generator().manual_seed(0)
    tokens = 0
    for x in blocks:
        tokens += len(x)
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu")
        unit = direction / direction.norm(dim=1, keepdim=True) * (x - sae.center()).norm(dim=1, keepdim=True)
        codes = sae.encode(x)
        clean, output = _spread_out(codes, sae.n_latents), sae.decode(codes)
        for place, noise in enumerate(noises):
            again = sae.encode(x + noise * unit)
            noisy = _spread_out(again, sae.n_latents)
            both = (clean != 0) & (noisy != 0)
            kept = both.sum(1) / (clean != 0).sum(1).clamp_min(1)
            squares = clean.square()
            energy_kept = (squares * both).sum(1) / squares.sum(1).clamp_min(1e-30)
            change = (clean - noisy).norm(dim=1) / clean.norm(dim=1).clamp_min(1e-30)
            moved = (sae.decode(again) - output).norm(dim=1) / (noise * unit).norm(dim=1).clamp_min(1e-30)
            for name, values in zip(names, (kept, energy_kept, change, moved), strict=True):
                sums[place][name] += float(values.double().sum())
    return [
        {"noise": noise, **{name: total / tokens for name, total in part.items()}}
        for noise, part in zip(noises, sums, strict=True)
    ]


def _spread_out(codes: Codes, n_latents: int) -> Tensor:
    return torch.zeros(len(codes.indices), n_latents, dtype=torch.float32, device="cpu").scatter_(
        1, codes.indices, codes.values
    )
