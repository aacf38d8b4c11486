"""The definition of encode_topk in plain PyTorch; it alone materialises [batch, n_latents]."""

import torch
from torch import Tensor

from expander_sae.ops.ties import equal_columns, fingerprints, with_bias


def forward(
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    k: int,
    bias: Tensor | None,
    center: Tensor | None,
    signed: bool,
) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest pre-activations, differentiable in x, values, bias and center."""
    centered = x.to(values.dtype)
    if center is not None:
        centered = centered - center
    if rows is None:
        pre = centered @ values.T
    else:
        pre = sum(values[:, e] * centered[:, rows[:, e].long()] for e in range(values.shape[1]))
        assert isinstance(pre, Tensor)
    if bias is not None:
        pre = pre + bias
    if not signed:
        pre = torch.relu(pre)
    # A stable sort, not topk, and equal columns have equal scores: ties go to the lower latent.
    prints = with_bias(fingerprints(rows, values, x.shape[1], signed=False), bias)
    scores = equal_columns(prints).level(pre.detach().clone())
    indices = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
    return indices, torch.gather(pre, 1, indices)
