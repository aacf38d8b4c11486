"""Where an SAE starts: the scale of its inputs and its decoder bias, from a large sample."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

from .base import AbstractSae

OUTLIER_MEDIANS = 5.0


class InputStatistics(NamedTuple):
    """What a sample of ordinary activations says."""

    mean: Tensor
    """[d_in], in the units of the activations."""
    scale: float
    """Multiplies activations so that their mean norm is sqrt(d_in)."""
    variance: float
    """Mean of ||x - mean||^2, in the units of the activations squared."""
    outliers: int
    """Tokens of the sample left out: norm above five medians."""


def ordinary_tokens(x: Tensor, medians: float = OUTLIER_MEDIANS) -> Tensor:
    """bool [batch]: tokens whose norm is at most `medians` times the median norm.

    A handful of tokens carry norms a hundred times the rest; left in, they drag the mean and fake a low error.
    """
    norms = x.float().norm(dim=1)
    return norms <= medians * norms.median()


def input_statistics(sample: Tensor) -> InputStatistics:
    """Mean, scale and variance of a sample [tokens, d_in] with norm outliers left out.

    Raises:
        ExpanderSaeError: fewer than two tokens, or a number that is not finite.
    """
    if sample.ndim != 2 or sample.shape[0] < 2:
        raise ExpanderSaeError(f"expected a sample [tokens >= 2, d_in]; got {list(sample.shape)}")
    if not bool(torch.isfinite(sample).all()):
        raise ExpanderSaeError("expected finite activations; the sample holds NaN or infinity")
    keep = ordinary_tokens(sample)
    x = sample[keep].double()
    mean, norm = x.mean(0), float(x.norm(dim=1).mean())
    if not norm > 0:
        raise ExpanderSaeError("expected activations that are not all zero")
    variance = float((x - mean).square().sum(1).mean())
    return InputStatistics(mean.float(), math.sqrt(x.shape[1]) / norm, variance, int((~keep).sum()))


@torch.no_grad()
def initialise(sae: AbstractSae, statistics: InputStatistics) -> None:
    """Set the input scale, and b_dec to the sample's mean."""
    sae.input_scale.fill_(statistics.scale)
    sae.b_dec.copy_(statistics.mean * statistics.scale)


@torch.no_grad()
def set_input_scale(sae: AbstractSae, scale: float) -> None:
    """Train in other units from here on: inputs times `scale`; codes and reconstructions do not change."""
    for bias in (sae.b_dec, sae.b_enc):
        if bias is not None:
            bias.mul_(scale / sae.input_scale)
    sae.input_scale.fill_(scale)
