"""What a probe chooses from: the latents of an SAE, or the coordinates that it must beat, as one column each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from expander_sae.graphs import Mask
from expander_sae.ops.autograd import own_precision
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, IrregularSae
from expander_sae.saes.columns import random_columns
from expander_sae.saes.init import initialise, input_statistics


@dataclass(frozen=True)
class Features:
    """Values of features at tokens.

    Example:
        >>> import numpy as np
        >>> from scipy import sparse
        >>> features = Features("two", sparse.csc_matrix(np.array([[0.0, 2.0], [1.0, 0.0]])))
        >>> features.density().tolist()
        [0.5, 0.5]
    """

    name: str
    values: sparse.csc_matrix
    """float64 [tokens, features]; dense ones are stored whole."""

    @property
    def n_tokens(self) -> int:
        """Rows of `values`."""
        return cast(tuple[int, int], self.values.shape)[0]

    @property
    def n_features(self) -> int:
        """Columns of `values`."""
        return cast(tuple[int, int], self.values.shape)[1]

    def column(self, feature: int, rows: np.ndarray) -> np.ndarray:
        """One feature at these tokens, float64 [rows]."""
        first, last = self.values.indptr[feature : feature + 2]
        full = np.zeros(self.n_tokens)
        full[self.values.indices[first:last]] = self.values.data[first:last]
        return full[rows]

    def density(self) -> np.ndarray:
        """Share of tokens on which each feature is not zero, float64 [features]."""
        return np.diff(self.values.indptr) / self.n_tokens


@torch.no_grad()
def latent_features(name: str, sae: AbstractSae, x: Tensor, *, batch_size: int = 2048) -> Features:
    """The codes of activations x [tokens, d_in] as the SAE reads them."""
    device = sae.center().device
    rows, columns, values = [], [], []
    for start in range(0, len(x), batch_size):
        codes = sae.encode(x[start : start + batch_size].float().to(device))
        fires = (codes.values != 0).cpu()
        rows.append(fires.nonzero()[:, 0] + start)
        columns.append(codes.indices.cpu()[fires].long())
        values.append(codes.values.cpu()[fires].double())
    joined = (torch.cat(values).numpy(), (torch.cat(rows).numpy(), torch.cat(columns).numpy()))
    return Features(name, sparse.csc_matrix(joined, shape=(len(x), sae.n_latents)))


def coordinates(x: Tensor) -> Features:
    """The coordinates of the activations themselves, less their mean: what needs no dictionary at all."""
    values = x.double()
    return Features("raw coordinates", sparse.csc_matrix((values - values.mean(0)).numpy()))


@own_precision
def principal_components(x: Tensor, sample: Tensor) -> Features:
    """Coordinates along the principal directions of a sample [tokens, d_in] of training activations."""
    known = sample.double()
    mean = known.mean(0)
    directions = torch.linalg.eigh((known - mean).T @ (known - mean)).eigenvectors
    return Features("principal components", sparse.csc_matrix(((x.double() - mean) @ directions).numpy()))


def untrained(sae: AbstractSae, sample: Tensor, *, seed: int = 1) -> AbstractSae:
    """A new SAE of the same kind, sizes and reading that was never trained: random columns, and the mean of a sample.

    SAEs of other libraries, whose thresholds mean nothing over random columns, get a dense TopK SAE of as many latents.

    Args:
        sae: whose twin is wanted.
        sample: training activations [tokens, d_in], for its mean and scale.
        seed: of columns and mask.
    """
    sizes: dict[str, Any] = {"d_in": sae.d_in, "n_latents": sae.n_latents, "k": sae.k, "seed": seed}
    if isinstance(sae, IrregularSae):
        new: AbstractSae = IrregularSae(
            **sizes, degree=sae.degree, entries=sae.entries, signed=sae.signed, reading=sae.reading
        )
    elif isinstance(sae, ExpanderSae):
        new = ExpanderSae(**sizes, degree=sae.degree, signed=sae.signed, reading=sae.reading)
    else:
        reading = sae.reading if isinstance(sae, DenseTopKSae) else None
        new = DenseTopKSae(**sizes, signed=sae.signed if reading is not None else False, reading=reading)
    initialise(new, input_statistics(sample.float().cpu()))
    return new.eval()


@torch.no_grad()
def shuffled_rows(sae: ExpanderSae, *, seed: int = 1) -> ExpanderSae:
    """The same SAE with the supports dealt out at random among its columns: values, biases and masks as trained, but
    not which goes with which."""
    copied = _copy(sae)
    order = np.random.default_rng(seed).permutation(sae.n_latents)
    copied.set_mask(Mask(sae.mask.rows[order], d_in=sae.d_in, construction="rows", seed=None))
    return copied


@torch.no_grad()
def redrawn_values(sae: ExpanderSae, *, seed: int = 1) -> ExpanderSae:
    """The same SAE with random values on its supports, encoder included: what the learned rows and biases carry alone.

    Source: the frozen decoders of Korznikov et al., "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random
    Baselines?", arXiv 2602.14111, with trained supports.
    """
    copied = _copy(sae)
    # An irregular SAE's slots without an entry hold a zero.
    drawn = random_columns(sae.n_latents, sae.degree, seed).raw * (sae.columns.raw != 0)
    copied.columns.raw.copy_(drawn)
    if copied.encoder is not None:
        copied.encoder.copy_(copied.columns())
    return copied


def _copy(sae: ExpanderSae) -> ExpanderSae:
    copied = copy.deepcopy(sae).eval()
    copied.folder = None
    return copied


def untrained_twins(saes: Mapping[str, AbstractSae], sample: Tensor, *, seed: int = 1) -> dict[str, AbstractSae]:
    """The untrained SAEs of several, one for all that are alike in kind, sizes and reading, by names that say which."""
    twins: dict[tuple[Any, ...], AbstractSae] = {}
    for sae in saes.values():
        twin = untrained(sae, sample, seed=seed)
        # An irregular twin starts as a regular one of the same average degree.
        twins.setdefault((twin.kind, twin.n_latents, twin.decoder_values(), str(twin.reading), twin.k), twin)
    named: dict[str, AbstractSae] = {}
    for (kind, n_latents, values, reading, k), twin in twins.items():
        name = f"untrained {kind}, {n_latents:,} latents, {values // n_latents:,} values each, {reading}"
        named[f"{name}, k {k}" if name in named else name] = twin
    return named
