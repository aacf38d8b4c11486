"""Small dictionaries and tokens for the pursuit tests, and slow oracles."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from expander_sae.graphs import make_mask
from expander_sae.ops import Codes
from expander_sae.pursuit import Dictionary


def sparse(n_latents: int, d_in: int, degree: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Dictionary:
    rows = make_mask("uniform", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed).rows.astype("int64")
    values = torch.randn(n_latents, degree, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Dictionary(torch.from_numpy(rows), F.normalize(values, dim=1).to(dtype), d_in)


def dense(n_latents: int, d_in: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Dictionary:
    values = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Dictionary.of_matrix(F.normalize(values, dim=1).to(dtype))


def matrix(dictionary: Dictionary) -> np.ndarray:
    """W [d_in, n_latents]."""
    values = dictionary.decoder.detach().double()
    if dictionary.rows is not None:
        values = torch.zeros(values.shape[0], dictionary.d_in, dtype=torch.float64).scatter(1, dictionary.rows, values)
    return values.numpy().T.copy()


def tokens(batch: int, d_in: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, d_in, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64).to(dtype)


def full(codes: Codes, n_latents: int) -> np.ndarray:
    """h [batch, n_latents]."""
    out = torch.zeros(codes.indices.shape[0], n_latents, dtype=torch.float64)
    return out.scatter_add(1, codes.indices, codes.values.detach().double()).numpy()


def check_form(codes: Codes, n_latents: int, *, signed: bool = True) -> None:
    """No repeats, falling, unused slots last and on the lowest free latents."""
    for indices, values in zip(codes.indices.tolist(), codes.values.tolist(), strict=True):
        assert len(set(indices)) == len(indices)
        used = [i for i, value in zip(indices, values, strict=True) if value != 0]
        sizes = [abs(value) if signed else value for value in values if value != 0]
        assert sizes == sorted(sizes, reverse=True)
        assert all(value != 0 for value in values[: len(used)])
        free = [latent for latent in range(n_latents) if latent not in used]
        assert indices[len(used) :] == free[: len(indices) - len(used)]


def planted(
    dictionary: Dictionary, batch: int, k: int, seed: int = 0, *, positive: bool = False
) -> tuple[Tensor, np.ndarray]:
    """x = W h [batch, d_in] of k-sparse codes h [batch, n_latents] with sizes in [1, 2]."""
    generator = torch.Generator().manual_seed(2000 + seed)
    n = dictionary.n_latents
    support = torch.rand(batch, n, generator=generator).argsort(1)[:, :k]
    sizes = 1 + torch.rand(batch, k, generator=generator, dtype=torch.float64)
    if not positive:
        sizes = sizes * (2 * torch.randint(0, 2, (batch, k), generator=generator) - 1)
    h = torch.zeros(batch, n, dtype=torch.float64).scatter(1, support, sizes)
    return (h @ torch.from_numpy(matrix(dictionary)).T).to(dictionary.decoder.dtype), h.numpy()


def babel(w: np.ndarray, p: int) -> float:
    """mu_1(p): the largest sum of p absolute inner products of a column with others."""
    gram = np.abs(w.T @ w)
    np.fill_diagonal(gram, 0.0)
    return float(np.sort(gram, axis=1)[:, ::-1][:, :p].sum(1).max()) if p else 0.0


def complete_graph(d: int) -> Dictionary:
    """Columns are the vertices of K_{d+1}, rows its edges: degree d, every overlap exactly 1, flat values."""
    edges = [(a, b) for a in range(d + 1) for b in range(a + 1, d + 1)]
    rows = [[e for e, edge in enumerate(edges) if v in edge] for v in range(d + 1)]
    return Dictionary(torch.tensor(rows), torch.full((d + 1, d), d**-0.5, dtype=torch.float64), len(edges))
