"""The definitions of correlate and support_gram in plain PyTorch."""

import torch
from torch import Tensor

from expander_sae.ops.in_full import in_full


def correlate(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """W^T x [batch, n_latents]."""
    return torch.einsum("bnd,nd->bn", x.to(values.dtype)[:, rows.long()], values)


def support_gram(indices: Tensor, rows: Tensor, values: Tensor, d_in: int) -> Tensor:
    """W_S^T W_S [batch, k, k]."""
    columns = in_full(rows, values, d_in)[indices]
    return columns @ columns.transpose(1, 2)
