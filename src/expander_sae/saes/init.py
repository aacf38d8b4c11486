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
    """Tokens of the sample left out: norm above five medians of those that are not zero."""


def token_norms(x: Tensor, what: str, first: int = 0) -> Tensor:
    """Norms of x [tokens, d_in], each of which is of a finite token.

    Every comparison with NaN is false, so an outlier filter would drop a NaN token as if its norm were large: whoever
    filters by norm takes them from here.

    Args:
        x: of any float type.
        what: x, in words, for the error.
        first: the number of the first token, for the error.

    Raises:
        ExpanderSaeError: an entry is NaN or infinite; says which.
    """
    norms = x.norm(dim=1)
    if not bool(torch.isfinite(norms).all()):  # a finite token's norm may overflow: the largest outlier there is
        wrong = (~torch.isfinite(x)).nonzero()
        if len(wrong):
            token, entry = wrong[0].tolist()
            many = int((~torch.isfinite(x)).any(1).sum())
            raise ExpanderSaeError(
                f"expected finite {what}; got {float(x[token, entry])} at entry {entry} of token {first + token}"
                + (f", and {many - 1} more of {len(x)} tokens are not finite" if many > 1 else "")
                + ". Harvest them again, or leave those tokens out."
            )
    return norms


def norm_limit(norms: Tensor, medians: float) -> float:
    """The norm above which a token is an outlier: `medians` times the median norm of the tokens that are not zero.

    Infinity where all are zero.
    """
    some = norms[norms > 0]
    return medians * float(some.median()) if len(some) else math.inf


def ordinary_tokens(x: Tensor, medians: float = OUTLIER_MEDIANS) -> Tensor:
    """bool [batch]: tokens whose norm is at most `medians` times the median norm of those that are not zero.

    A handful of tokens carry norms a hundred times the rest; left in, they drag the mean and fake a low error.

    Raises:
        ExpanderSaeError: a token is NaN or infinite.
    """
    norms = token_norms(x.float(), "activations")
    return norms <= norm_limit(norms, medians)


def check_variance(variance: float, power: float, what: str) -> None:
    """Raise where tokens are equal up to rounding: there is nothing to learn, and fractions of the variance are noise.

    Args:
        variance: mean of ||x - mean||^2.
        power: mean of ||x||^2.
        what: x, in words.

    Raises:
        ExpanderSaeError: there is no variance.
    """
    if not power > 0:
        raise ExpanderSaeError(f"expected {what} that are not all zero; got zeros")
    if not variance > 1e-24 * power:
        raise ExpanderSaeError(
            f"expected {what} that differ from token to token; got no variance, all are equal. Were they "
            "harvested from the wrong module, or from one text repeated?"
        )


def input_statistics(sample: Tensor) -> InputStatistics:
    """Mean, scale and variance of a sample [tokens, d_in] with norm outliers left out.

    Raises:
        ExpanderSaeError: fewer than two tokens, a number that is not finite, or no variance.
    """
    if sample.ndim != 2 or sample.shape[0] < 2:
        raise ExpanderSaeError(f"expected a sample [tokens >= 2, d_in]; got {list(sample.shape)}")
    keep = ordinary_tokens(sample)
    x = sample[keep].double()
    mean, norm = x.mean(0), float(x.norm(dim=1).mean())
    variance = float((x - mean).square().sum(1).mean())
    check_variance(variance, float(x.square().sum(1).mean()), "activations")
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
