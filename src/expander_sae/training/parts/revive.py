"""Dead latents come back by an auxiliary loss: they learn to explain what the live ones leave over."""

from dataclasses import dataclass, replace

from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops import sparse_decode
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from .part import Found, Part, Step, Trained


@dataclass(frozen=True)
class Revive:
    """The auxiliary loss of dead latents (AuxK)."""

    weight: float = 1 / 32
    k: int | None = None
    """Dead latents per token; None: min(256, d_in / 2)."""

    def __post_init__(self) -> None:
        if not self.weight > 0 or (self.k is not None and self.k < 1):
            raise ExpanderSaeError(
                f"expected weight > 0 and k >= 1 (or none) in Revive; got {self.weight} and {self.k}. revive=None "
                "turns the auxiliary loss off."
            )


class RevivePart(Part):
    """Adds `auxiliary_loss` while some latents are dead."""

    def __init__(self, config: Revive, trained: Trained) -> None:
        self.sae, self.weight, self.ranks = trained.sae, config.weight, trained.ranks
        self.k = config.k or min(256, max(1, trained.sae.d_in // 2))

    def wants_residual(self, step: Step) -> bool:
        """While some latents are dead."""
        return step.dead.numel() > 0

    def before_step(self, step: Step, found: Found) -> Tensor | None:
        """The auxiliary loss, times its weight."""
        if not step.dead.numel():
            return None
        assert found.residual is not None
        return self.weight * auxiliary_loss(self.sae, step.x, found.residual, step.dead, self.k, self.ranks)


def auxiliary_loss(sae: AbstractSae, x: Tensor, residual: Tensor, dead: Tensor, k: int, ranks: Ranks = ALONE) -> Tensor:
    """How well the k strongest dead latents of each token explain what is left of it.

    `||r - sum_dead h_j w_j||^2 / ||r||^2` over the batch, with r = x - x_hat detached (so live latents learn nothing
    from it) and h from x - b_dec (b_dec is in r already: it is neither added again nor trained here).

    Args:
        sae: any.
        x: [batch, d_in].
        residual: r [batch, d_in].
        dead: the latents, int64.
        k: dead latents per token; all of them where there are fewer.
        ranks: those that x is a share of; their losses add up.

    Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024, section A.2.
    """
    w = sae.dictionary().part(dead)
    assert w.center is not None
    codes = Encoder().codes(replace(w, center=w.center.detach()), x, min(k, dead.numel()))
    explained = sparse_decode(codes, w.rows, w.decoder, sae.d_in)
    return (residual - explained).square().sum() / ranks.total(residual.square().sum()).clamp_min(1e-30)
