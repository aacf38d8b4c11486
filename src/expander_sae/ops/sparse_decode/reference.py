"""The definition of sparse_decode in plain PyTorch."""

import torch
from torch import Tensor


def forward(indices: Tensor, codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int) -> Tensor:
    """x_hat [batch, d_in], differentiable in codes and values."""
    if rows is None:
        return torch.einsum("bk,bkr->br", codes, values[indices])
    batch = indices.shape[0]
    contributions = (codes[:, :, None] * values[indices]).reshape(batch, -1)
    targets = rows.long()[indices].reshape(batch, -1)
    return torch.zeros(batch, d_in, dtype=contributions.dtype, device=codes.device).scatter_add(
        1, targets, contributions
    )
