"""Random dictionaries and activations for the op tests."""

import pytest
import torch
from torch import Tensor

from expander_sae.graphs import make_mask
from expander_sae.ops import backends

needs_native = pytest.mark.skipif(backends.native_core() is None, reason="the C++ core is not built")

# batch, d_in, n_latents, degree, k: multiples of nothing, both ends of every range, and one of each tile.
SHAPES = [
    (1, 7, 11, 3, 1),
    (1, 512, 4096, 7, 32),
    (2, 16, 40, 1, 40),
    (5, 33, 700, 4, 9),
    (8, 64, 1030, 8, 64),
    (17, 100, 2000, 5, 512),
    (70, 129, 1500, 16, 3),
    (131, 700, 900, 7, 32),
    (3, 9, 20, 9, 4),
]


def random_rows(n_latents: int, degree: int, d_in: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(
        make_mask("uniform", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed).rows.astype("int64")
    )


def grid(*shape: int, seed: int, low: int = -3, high: int = 4) -> Tensor:
    """Small integers: every sum is exact, and ties abound."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
