"""What latents point at: directions against those of another SAE."""

from __future__ import annotations

import torch
from torch import Tensor

from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae


@torch.no_grad()
def dense_columns(sae: AbstractSae, first: int = 0, last: int | None = None) -> Tensor:
    """Unit-norm dictionary columns `first` to `last` as rows of a float32 [columns, d_in]."""
    latents = torch.arange(first, sae.n_latents if last is None else min(last, sae.n_latents), device="cpu")
    return sae.dictionary().columns(latents).float()


@own_precision
@torch.no_grad()
def best_cosine(sae: AbstractSae, other: AbstractSae, *, at_once: int = 1024) -> Tensor:
    """How well each column is matched by one of another SAE's: max_j |<w, w_j>|, float32 [n_latents].

    The sign is dropped because codes may be negative in a signed SAE.

    Args:
        sae: whose columns are asked about.
        other: whose columns may match; leave dead ones in, they count as directions too.
        at_once: columns compared at a time.

    Raises:
        ExpanderSaeError: the two have different widths.
    """
    if sae.d_in != other.d_in:
        raise ExpanderSaeError(f"expected SAEs of one d_in; got {sae.d_in} and {other.d_in}")
    theirs = dense_columns(other)
    parts = [
        (dense_columns(sae, first, first + at_once) @ theirs.T).abs().amax(1)
        for first in range(0, sae.n_latents, at_once)
    ]
    return torch.cat(parts)
