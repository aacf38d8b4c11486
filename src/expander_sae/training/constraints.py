"""What a certificate asks of a dictionary, as training can give it: flat columns and little coherence."""

import torch
from torch import Tensor

from expander_sae.ops import encode_topk
from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae

from .flat_columns import flatten_columns


@torch.no_grad()
def keep_flat(sae: ExpanderSae, flatness: float) -> int:
    """Project every column on the nearest one with max_i |w_ij| / min_i |w_ij| <= flatness; how many were not.

    Args:
        sae: its `columns.raw` [n_latents, degree] change in place, by `flatten_columns`.
        flatness: at least 1; float32 rounding may leave a ratio a few ulp above it.

    Raises:
        ExpanderSaeError: flatness below 1, or a column that is zero or not finite.

    Source: projected gradient steps; the projection is `flatten_columns`.

    Example:
        >>> sae = ExpanderSae(d_in=16, n_latents=32, degree=4, k=2)
        >>> _ = keep_flat(sae, 2.0)
        >>> bool((sae.values.abs().amax(1) / sae.values.abs().amin(1) < 2.001).all())
        True
    """
    if not flatness >= 1:
        raise ExpanderSaeError(f"expected a flatness of at least 1; got {flatness}")
    raw = sae.columns.raw
    size = raw.abs()
    # A little slack, or the rounding of one projection would ask for the next.
    uneven = (size.amax(dim=1) > flatness * (1 + 1e-6) * size.amin(dim=1)).nonzero()[:, 0]
    if len(uneven):
        raw[uneven] = torch.from_numpy(flatten_columns(raw[uneven].cpu().numpy(), flatness)).to(raw)
    return len(uneven)


@own_precision
def coherence_penalty(sae: AbstractSae, columns: Tensor, p: int) -> Tensor:
    """Mean over `columns` of the mean square of their p largest |<w_i, w_j>|, i != j; differentiable in the values.

    1/(|C| p) sum over j in C of sum over the p largest of <w_i, w_j>^2: at most (mu_1(p) / p)^2 where all are equal.
    Only these pairs get a gradient; they are found by the encoder's kernel in O(|C| n_latents degree).

    Args:
        sae: any, sparse or dense.
        columns: distinct latents C, int64.
        p: neighbours of each, 1 to n_latents - 1.

    Raises:
        ExpanderSaeError: p outside that range.

    Source: a sampled form of the mutual-coherence penalties of dictionary learning (Ramirez, Lecumberry and Sapiro,
    "Universal priors for sparse modeling", CAMSAP 2009), on the inner products that make mu_1(p).

    Example:
        >>> from expander_sae.saes import DenseTopKSae
        >>> sae = DenseTopKSae(d_in=2, n_latents=2, k=1)
        >>> _ = sae.columns.raw.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> round(float(coherence_penalty(sae, torch.tensor([0]), 1)), 3)
        0.5
    """
    if not 1 <= p < sae.n_latents:
        raise ExpanderSaeError(f"expected p from 1 to {sae.n_latents - 1}; got {p}")
    rows, values, _ = sae.dictionary()
    chosen = _dense(rows, values, columns, sae.d_in)
    with torch.no_grad():
        # Both signs, as the kernel keeps positive numbers; each column finds itself among the positive ones.
        most = min(p + 1, sae.n_latents)
        found = [encode_topk(sign * chosen, rows, values, most) for sign in (1.0, -1.0)]
        near = torch.cat([codes.indices for codes in found], dim=1)
        size = torch.cat([codes.values for codes in found], dim=1).masked_fill(near == columns[:, None], -1.0)
        top = size.topk(p, dim=1)
        near, real = near.gather(1, top.indices), top.values > 0
    others = values[near]
    if rows is None:
        inner = (others @ chosen[:, :, None])[:, :, 0]
    else:
        met = chosen.gather(1, rows.long()[near].flatten(1)).view_as(others)
        inner = (met * others).sum(dim=2)
    # Unused slots of the kernel hold any latent with a zero.
    return (inner * real).square().mean()


def _dense(rows: Tensor | None, values: Tensor, columns: Tensor, d_in: int) -> Tensor:
    """Some columns [len(columns), d_in]."""
    if rows is None:
        return values[columns]
    return values.new_zeros(len(columns), d_in).scatter(1, rows.long()[columns], values[columns])
