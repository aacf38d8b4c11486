"""Incoherent columns: a penalty on the largest inner products, as certificates ask for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expander_sae.ops import encode_topk
from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from .part import Found, Part, Step, Trained


@dataclass(frozen=True)
class Coherence:
    """A penalty on the k largest inner products of sampled columns with others: the terms of the cumulative coherence
    mu_1(k)."""

    weight: float = 1.0
    """Of their mean square in the loss."""
    columns: int = 256
    """Sampled in each step."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf or self.columns < 1:
            raise ExpanderSaeError(
                "expected a finite weight > 0 and columns >= 1 in Coherence (--coherence); got "
                f"{self.weight} and {self.columns}. coherence=None turns the penalty off."
            )


class CoherencePart(Part):
    """Adds `coherence_penalty` of columns that it draws in each step."""

    def __init__(self, config: Coherence, trained: Trained) -> None:
        self.config, self.sae, self.generator = config, trained.sae, trained.generator
        self.weight = config.weight / trained.ranks.size  # the same on every rank, and they add up

    def before_step(self, step: Step, found: Found) -> Tensor:
        """The penalty, times its weight."""
        del step, found
        sae = self.sae
        sampled = torch.randperm(sae.n_latents, generator=self.generator, device="cpu")[: self.config.columns]
        penalty = coherence_penalty(sae, sampled.to(sae.b_dec.device), min(sae.k, sae.n_latents - 1))
        return self.weight * penalty


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
    w = sae.dictionary()
    rows, values, chosen = w.rows, w.decoder, w.columns(columns)
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
