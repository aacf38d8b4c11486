"""Worlds whose features are known: made-up activations, and how much of what made them an SAE finds again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from expander_sae.ops.autograd import own_precision
from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, DenseTopKSae

from ..features import dense_columns
from .features import Features, latent_features
from .stability import match_directions

RECOVERED = 0.8
"""|cosine| from which on a true direction counts as recovered."""


@dataclass(frozen=True)
class WorldSettings:
    """How a world is made; the defaults are those of SynthSAEBench-16k at a sixteenth of its features.

    Source: Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic
    Data", arXiv 2602.14687. Made from its description; the random draws are others.
    """

    d_in: int = 128
    n_features: int = 1024
    """True directions; more than d_in of them overlap (superposition)."""
    degree: int | None = None
    """Non-zeros of each true direction, on random rows; None: all d_in."""
    most: float = 0.4
    """Firing probability of the first feature."""
    least: float = 5e-4
    """Of the last one; between them it falls as rank^-exponent (Zipf)."""
    exponent: float = 0.5
    roots: int = 8
    """Trees of features, the most frequent ones at the roots: a child fires only where its parent does."""
    branching: int = 4
    """Children of each parent, of which one at most fires at a time."""
    depth: int = 3
    """Generations below a root. Features in no tree fire by themselves."""
    rank: int = 25
    """Hidden Gaussian factors that make features fire together."""
    correlation: float = 0.1
    """Standard deviation of a feature's loading on each of them."""
    magnitudes: tuple[float, float] = (5.0, 4.0)
    """Mean activation of the first and of the last feature where they fire; in between it is linear."""
    bias: float = 0.5
    """Length of the vector that is added to every token."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most < 1 or self.exponent <= 0:
            raise ExpanderSaeError(
                f"expected 0 < least <= most < 1 and an exponent > 0; got {self.least}, {self.most}, {self.exponent}"
            )
        if self.degree is not None and not 1 <= self.degree <= self.d_in:
            raise ExpanderSaeError(f"expected a degree of true directions from 1 to {self.d_in}; got {self.degree}")
        if self.in_trees() > self.n_features:
            raise ExpanderSaeError(
                f"expected n_features of at least {self.in_trees()}, those of {self.roots} trees of {self.depth} "
                f"generations; got {self.n_features}. Ask for fewer roots."
            )
        if self.rank * self.correlation**2 >= 1:
            raise ExpanderSaeError(
                f"expected rank * correlation^2 < 1, a feature's share of hidden factors; got {self.rank} and "
                f"{self.correlation}"
            )

    def in_trees(self) -> int:
        """How many features are in trees, roots included."""
        return sum(self.roots * self.branching**level for level in range(self.depth + 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Sample(NamedTuple):
    """Tokens of a world and what they are made of."""

    x: Tensor
    """Activations [tokens, d_in], float32."""
    truth: Features
    """Activations of the true features, [tokens, n_features]."""


class World:
    """A dictionary of true directions, and tokens that are sparse non-negative mixtures of them: x = a D + bias.

    Features fire where correlated Gaussians are above a threshold. A child that fires without its parent is silenced,
    as are all but one (at random) of several siblings; probabilities are raised beforehand to make up for it, as far as
    probabilities can be. A child is as much stronger than usual as its parent is.

    Attributes:
        directions: unit vectors [n_features, d_in], float32.
        probability: of each feature before its parent and siblings have a say, float64 [n_features].

    Example:
        >>> world = World(WorldSettings(d_in=32, n_features=100, roots=1))
        >>> x, truth = world.sample(50, seed=1)
        >>> x.shape, truth.n_features
        (torch.Size([50, 32]), 100)
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        n, draw = settings.n_features, _generator(settings.seed, 0)
        self.directions = _directions(settings, draw)
        bias = torch.randn(settings.d_in, generator=draw)
        self.bias = bias * (settings.bias / bias.norm())
        self.mean = torch.linspace(*settings.magnitudes, n)
        self.spread = (0.5 + 0.5 * torch.randn(n, generator=draw)).abs()
        # Nothing keeps a draw from explaining more than all of a feature.
        loadings = torch.randn(n, settings.rank, generator=draw) * settings.correlation
        most = loadings.square().sum(1, keepdim=True)
        self.loadings = loadings * (0.95 / most.clamp_min(0.95)).sqrt()
        self.own = (1 - self.loadings.square().sum(1)).sqrt()
        self.levels = _levels(settings)
        self.probability = _compensated(_zipf(settings), self.levels, settings.branching)
        self.threshold = torch.special.ndtri(1 - torch.from_numpy(self.probability)).float()

    def sample(self, tokens: int, *, seed: int) -> Sample:
        """Draw tokens; the same seed gives the same ones.

        Args:
            tokens: how many.
            seed: of the draw, apart from the world's own.
        """
        draw, n = _generator(self.settings.seed, seed + 1), self.settings.n_features
        parts, at_once = [], max(1, (1 << 24) // n)
        for first in range(0, tokens, at_once):
            parts.append(sparse.csr_matrix(self._activations(min(at_once, tokens - first), draw).numpy()))
        active = sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, n))
        x = torch.from_numpy(np.asarray(active @ self.directions.numpy(), dtype=np.float32)) + self.bias
        return Sample(x, Features("true features", sparse.csc_matrix(active, dtype=np.float64)))

    def _activations(self, tokens: int, draw: torch.Generator) -> Tensor:
        """float32 [tokens, n_features]."""
        n, branching = self.settings.n_features, self.settings.branching
        hidden = torch.randn(tokens, self.settings.rank, generator=draw)
        level = torch.randn(tokens, n, generator=draw).mul_(self.own).addmm_(hidden, self.loadings.T)
        fires = level > self.threshold
        for mine, parents in self.levels:
            alive = (fires[:, mine] & fires[:, parents]).view(tokens, -1, branching)
            lot = torch.rand(alive.shape, generator=draw).masked_fill_(~alive, -1.0)
            alive &= lot == lot.amax(2, keepdim=True)
            fires[:, mine] = alive.view(tokens, -1)
        token, feature = fires.nonzero(as_tuple=True)
        strength = self.mean[feature] + self.spread[feature] * torch.randn(len(feature), generator=draw)
        found = torch.zeros(tokens, n)
        found[token, feature] = strength.clamp_min(0)
        for mine, parents in self.levels:
            found[:, mine] *= found[:, parents] / self.mean[parents]
        return found

    def dictionary(self, features: np.ndarray, *, k: int, reading: Reading) -> AbstractSae:
        """The true directions of some features as an SAE, with the true bias: what a perfect training would give.

        Args:
            features: which, int64 [n_latents].
            k: active latents per token.
            reading: how its codes are found.
        """
        sae = DenseTopKSae(d_in=self.settings.d_in, n_latents=len(features), k=k, reading=reading)
        with torch.no_grad():
            sae.columns.raw.copy_(self.directions[torch.from_numpy(features)])
            sae.b_dec.copy_(self.bias)
        return sae.eval()


def _generator(seed: int, use: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, use]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@own_precision
@torch.enable_grad()
def _directions(settings: WorldSettings, draw: torch.Generator) -> Tensor:
    """Random directions, pushed apart by 100 steps of Adam on the sum of squared cosines, ||D^T D||_F^2 - n."""
    shape = (settings.n_features, settings.d_in)
    mask = torch.ones(shape)
    if settings.degree is not None:
        rows = torch.rand(shape, generator=draw).argsort(1)[:, : settings.degree]
        mask = torch.zeros(shape).scatter_(1, rows, 1.0)
    raw = torch.randn(shape, generator=draw) * mask
    raw = (raw / raw.norm(dim=1, keepdim=True)).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=3e-4)
    for _ in range(100):
        unit = raw * mask / (raw * mask).norm(dim=1, keepdim=True)
        loss = (unit.T @ unit).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = raw.detach() * mask
    return found / found.norm(dim=1, keepdim=True)


def _zipf(settings: WorldSettings) -> np.ndarray:
    """Wanted firing probabilities by rank, from `most` down to `least`."""
    size = np.arange(1, settings.n_features + 1, dtype=np.float64) ** -settings.exponent
    share = (size - size[-1]) / (size[0] - size[-1]) if len(size) > 1 else np.ones(1)
    return settings.least + (settings.most - settings.least) * share


def _levels(settings: WorldSettings) -> list[tuple[slice, Tensor]]:
    """Generation by generation: its features, siblings beside each other, and the parent of each."""
    found, begin, many = [], 0, settings.roots
    for _ in range(settings.depth if many else 0):
        parents = torch.arange(begin, begin + many).repeat_interleave(settings.branching)
        begin, many = begin + many, many * settings.branching
        found.append((slice(begin, begin + many), parents))
    return found


def _compensated(wanted: np.ndarray, levels: list[tuple[slice, Tensor]], branching: int) -> np.ndarray:
    """Probabilities that parents and siblings reduce to about the wanted ones, 1 at most.

    q = p / p_parent * (1 + sum over siblings of p / p_parent)
    """
    found = wanted.copy()
    for mine, parents in levels:
        given = wanted[mine] / wanted[parents.numpy()]
        others = given.reshape(-1, branching).sum(1).repeat(branching) - given
        found[mine] = np.minimum(1.0, given * (1 + others))
    return found


@dataclass(frozen=True)
class Recovery:
    """How much of a world an SAE finds again."""

    mcc: float
    """Mean |cosine| of learned and true directions, paired one to one (mean correlation coefficient)."""
    recovered: float
    """Share of all true directions whose learned one has a |cosine| of 0.8 at least."""
    uniqueness: float
    """Different true directions nearest to living latents, for each living latent."""
    f1: float
    """F1 of each latent's firing as a detector of the true feature nearest to it, mean over all latents."""
    feature_f1: float
    """F1 of each true feature, by the latent that it is paired with, 0 without one; mean over those that fire."""
    l0: float
    """Active latents per token."""
    true_l0: float
    """Active true features per token."""
    explained_variance: float
    """1 - ||x - x_hat||^2 / ||x - mean||^2, both summed over tokens."""
    dead: float
    """Share of latents that never fire."""


@torch.no_grad()
def recovery(sae: AbstractSae, world: World, sample: Sample) -> Recovery:
    """Compare an SAE's columns and codes with what made the tokens.

    Args:
        sae: read by its own reading.
        world: whose directions are looked for.
        sample: tokens of it that the SAE was not trained on.

    Raises:
        ExpanderSaeError: an SAE of another width.
    """
    columns = dense_columns(sae)
    pairs = match_directions(columns, world.directions)
    nearest = torch.cat([(part @ world.directions.T).abs().argmax(1) for part in columns.split(1024)]).numpy()
    codes = latent_features("codes", sae, sample.x)
    fires, truth = (sparse.csc_matrix(of.values != 0, dtype=np.int64) for of in (codes, sample.truth))
    counts, true_counts = (np.diff(of.indptr) for of in (fires, truth))
    x = sample.x.double().numpy()
    rest = x - codes.values @ columns.double().numpy() - sae.center().double().numpy()
    by_feature = np.zeros(len(true_counts))
    by_feature[pairs.theirs] = _f1(fires, truth, pairs.mine, pairs.theirs)
    alive = counts > 0
    return Recovery(
        mcc=float(pairs.cosine.mean()),
        recovered=float((pairs.cosine >= RECOVERED).sum() / len(true_counts)),
        uniqueness=len(np.unique(nearest[alive])) / int(alive.sum()) if alive.any() else float("nan"),
        f1=float(_f1(fires, truth, np.arange(len(counts)), nearest).mean()),
        feature_f1=float(by_feature[true_counts > 0].mean()),
        l0=float(counts.sum() / len(x)),
        true_l0=float(true_counts.sum() / len(x)),
        explained_variance=float(1 - (rest**2).sum() / ((x - x.mean(0)) ** 2).sum()),
        dead=float(1 - alive.mean()),
    )


def _f1(fires: sparse.csc_matrix, truth: sparse.csc_matrix, latents: np.ndarray, features: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each pair of a latent and a true feature, 0 where they never fire together."""
    one, other = fires[:, latents], truth[:, features]
    hits = np.asarray(one.multiply(other).sum(0)).ravel()
    both = np.diff(one.indptr) + np.diff(other.indptr)
    return 2 * hits / np.maximum(both, 1)
