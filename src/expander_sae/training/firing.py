"""When each latent last fired."""

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops import Codes


class FiringHistory:
    """Per latent: tokens since it last fired, and firings since the last resampling."""

    def __init__(self, n_latents: int, device: torch.device | None = None) -> None:
        self.tokens_since = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.firings = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def update(self, fired: Tensor, tokens: int) -> None:
        """Count one batch; fired is uint8 or bool [n_latents]."""
        self.tokens_since += tokens
        self.tokens_since[fired.bool()] = 0

    def count(self, codes: Codes, ranks: Ranks = ALONE) -> None:
        """Add a batch's firings, of which each of the ranks has a share, to the window of the next resampling."""
        counted = torch.bincount(codes.indices[codes.values != 0], minlength=self.firings.numel())
        self.firings += ranks.total(counted)

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
