"""What a probe chooses from: the latents of an SAE, or the coordinates that it must beat, as one column each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from expander_sae.ops.autograd import own_precision
from expander_sae.saes import AbstractSae


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
