"""An encoder of its own for a trained dictionary, taught what pursuit finds."""

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae

from ..firing import FiringHistory
from .part import Found, Part


def with_own_encoder(sae: ExpanderSae) -> ExpanderSae:
    """A copy of a trained SAE whose encoder has its own values and bias, starting at the decoder's and at zero.

    Raises:
        ExpanderSaeError: it is signed (its encoder never picks what pursuit finds with a negative code), has no pursuit
            to learn from, or has an encoder already.

    Example:
        >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
        >>> with_own_encoder(sae).learned_values() - sae.learned_values()
        2560
    """
    if not isinstance(sae, ExpanderSae) or sae.signed or not sae.reading.least_squares or not sae.tied:
        raise ExpanderSaeError(
            "expected a tied Expander SAE that is not signed and encodes by pursuit; got "
            f"{sae.kind}, tied {getattr(sae, 'tied', True)}, signed {sae.signed}, read by {sae.reading}"
        )
    copy = ExpanderSae(
        d_in=sae.d_in,
        n_latents=sae.n_latents,
        degree=sae.degree,
        k=sae.k,
        seed=sae.seed,
        latent_bias=True,
        reading=sae.reading,
        mask=sae.mask,
        tied=False,
    )
    assert copy.encoder is not None
    with torch.no_grad():
        copy.columns.raw.copy_(sae.values)
        copy.encoder.copy_(sae.values)
        copy.b_dec.copy_(sae.b_dec)
        copy.input_scale.copy_(sae.input_scale)
    copy.metadata = dict(sae.metadata)
    return copy.to(sae.b_dec.device)


def amortisation_loss(sae: ExpanderSae, x: Tensor, target: Codes, own: Codes, ranks: Ranks = ALONE) -> Tensor:
    """Squared error of the pre-activations against pursuit's codes h, relative to h.

    `(sum_{j in S} (p_j - h_j)^2 + sum_{j in T - S} relu(p_j)^2) / sum h^2` with p = E^T (x - b_dec) + b_enc, S the
    support of pursuit and T what the encoder itself would pick; every other latent is left alone, so it costs
    O(k * degree) a token.

    Args:
        sae: has its own encoder and a latent bias.
        x: [batch, d_in].
        target: pursuit's codes.
        own: the encoder's.
        ranks: those that x is a share of; their losses add up.
    """
    assert sae.encoder is not None
    bias = sae.latent_bias()
    assert bias is not None
    centered = x - sae.center().detach()
    new = ~(own.indices[:, :, None] == target.indices[:, None, :]).any(2)
    indices = torch.cat([target.indices, own.indices], 1)
    rows = sae.dictionary().rows_of(indices).long()
    seen = centered.gather(1, rows.flatten(1)).view(*rows.shape)
    pre = (sae.encoder[indices] * seen).sum(2) + bias[indices]
    inside, outside = pre.split([target.indices.shape[1], own.indices.shape[1]], dim=1)
    error = (inside - target.values).square().sum() + (outside.relu() * new).square().sum()
    return error / ranks.total(target.values.square().sum()).clamp_min(1e-30)


class AmortisePart(Part):
    """The loss of an encoder that is taught, and the only part beside it; the dictionary is left alone."""

    def __init__(
        self,
        name: str,
        sae: AbstractSae,
        variance: float,
        history: FiringHistory,
        dead_after_tokens: int,
        ranks: Ranks = ALONE,
    ) -> None:
        if (
            not isinstance(sae, ExpanderSae)
            or sae.encoder is None
            or sae.b_enc is None
            or not sae.reading.least_squares
        ):
            raise ExpanderSaeError(
                f"expected an Expander SAE with an encoder of its own to amortise; got {name!r}, {sae.kind}, without "
                "one or without a pursuit to learn from. See `with_own_encoder`."
            )
        self.sae, self.variance, self.ranks = sae, variance, ranks
        self.history, self.dead_after_tokens = history, dead_after_tokens
        self.parameters = [sae.encoder, sae.b_enc]

    def __call__(self, x: Tensor, *, number: int = 0, keep_residual: bool = False, tokens: int | None = None) -> Found:
        """`amortisation_loss` of x [batch, d_in], this rank's share of `tokens`, with the encoder's own codes."""
        del number, keep_residual
        sae = self.sae
        with torch.no_grad():
            target = sae.encode(x)
            own = sae.encode(x, reading=Encoder())
            fvu = (x - sae.decode(own)).square().sum() / ((tokens or x.shape[0]) * self.variance)
        fired = torch.zeros(sae.n_latents, dtype=torch.bool, device=x.device)
        fired[own.indices[own.values != 0]] = True
        return Found(amortisation_loss(sae, x, target, own, self.ranks), fvu, own, fired)

    def rebuild(self, x: Tensor) -> Tensor:
        """x_hat [tokens, d_in] by the encoder."""
        return self.sae.decode(self.sae.encode(x, reading=Encoder()))

    def logged(self) -> dict[str, float]:
        """The share of dead latents with this step counted, as there is no part that works with the one before."""
        return {"dead_fraction": self.history.dead(self.dead_after_tokens).numel() / self.sae.n_latents}
