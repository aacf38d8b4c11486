"""correlate and support_gram on the C++ core (CPU)."""

import torch
from torch import Tensor

from expander_sae.ops import native_core as core


def correlate(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """W^T x [batch, n_latents]."""
    out = torch.empty((x.shape[0], values.shape[0]), dtype=torch.float32, device="cpu")
    if x.shape[0]:
        arguments = (core.plain(x), None, core.rows16(rows), core.plain(values), torch.get_num_threads(), out)
        core.call("correlate", *arguments)
    return out


def support_gram(indices: Tensor, rows: Tensor, values: Tensor, d_in: int) -> Tensor:
    """W_S^T W_S [batch, k, k]."""
    out = torch.empty((*indices.shape, indices.shape[1]), dtype=torch.float32, device="cpu")
    arguments = (core.plain(indices), core.rows16(rows), core.plain(values), d_in, torch.get_num_threads(), out)
    core.call("support_gram", *arguments)
    return out
