"""Latents that do not fire, and two ways to bring them back."""

from dataclasses import replace

import torch
from torch import Tensor

from expander_sae.ops import Codes, sparse_decode
from expander_sae.pursuit import Encoder
from expander_sae.saes import AbstractSae


class FiringHistory:
    """Per latent: tokens since it last fired, and firings since the last resampling."""

    def __init__(self, n_latents: int, device: torch.device | None = None) -> None:
        self.tokens_since = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.firings = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def update(self, fired: Tensor, tokens: int) -> None:
        """Count one batch; fired is uint8 [n_latents]."""
        self.tokens_since += tokens
        self.tokens_since[fired.bool()] = 0

    def count(self, codes: Codes) -> None:
        """Add a batch's firings to the window of the next resampling."""
        self.firings += torch.bincount(codes.indices[codes.values != 0], minlength=self.firings.numel())

    def dead(self, after_tokens: int) -> Tensor:
        """int64 indices of latents silent for more than `after_tokens`."""
        return (self.tokens_since > after_tokens).nonzero()[:, 0]

    def state_dict(self) -> dict[str, Tensor]:
        """Both counters."""
        return {"tokens_since": self.tokens_since, "firings": self.firings}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take both counters back."""
        self.tokens_since.copy_(state["tokens_since"])
        self.firings.copy_(state["firings"])


def auxiliary_loss(sae: AbstractSae, x: Tensor, residual: Tensor, dead: Tensor, k: int) -> Tensor:
    """How well the k strongest dead latents of each token explain what is left of it.

    `||r - sum_dead h_j w_j||^2 / ||r||^2` over the batch, with r = x - x_hat detached (so live latents learn nothing
    from it) and h from x - b_dec (b_dec is in r already: it is neither added again nor trained here). Gao et al. 2024,
    section A.2.
    """
    w = sae.dictionary().part(dead)
    assert w.center is not None
    codes = Encoder().codes(replace(w, center=w.center.detach()), x, min(k, dead.numel()))
    explained = sparse_decode(codes, w.rows, w.decoder, sae.d_in)
    return (residual - explained).square().sum() / residual.square().sum().clamp_min(1e-30)


@torch.no_grad()
def resample(
    sae: AbstractSae, x: Tensor, residual: Tensor, history: FiringHistory, fewer_than: int, generator: torch.Generator
) -> int:
    """The paper's revival: point every latent with too few firings at a residual of this batch.

    Samples are drawn with probability proportional to their squared error; a column takes the residual restricted to
    its support, at a raw length of 1 / sqrt(degree), and its latent bias goes to zero. Skipped if no latent or more
    than 80% are candidates; the optimiser's moments are left alone. Returns how many latents were moved.
    """
    candidates = (history.firings < fewer_than).nonzero()[:, 0]
    history.firings.zero_()
    if not 0 < candidates.numel() <= 0.8 * sae.n_latents:
        return 0
    errors = residual.double().square().sum(1)
    if not float(errors.sum()) > 0:
        return 0  # everything is rebuilt: there is nothing to point at
    chances = (errors / errors.sum()).cpu()  # the generator is the CPU's, so that a device changes no draw
    draws = torch.multinomial(chances, candidates.numel(), replacement=True, generator=generator)
    pairs = zip(candidates.tolist(), draws.tolist(), strict=True)
    return sum(sae.point_latent(latent, residual[draw], sae.degree**-0.5) for latent, draw in pairs)
