"""Training an SAE whose columns may have different degrees: entries go to the columns whose codes need them."""

from typing import Any

import torch

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import InputStatistics, IrregularSae

from .config import TrainConfig
from .member import Member
from .rewire import Requests, keep_entries

_NEW = 0.05
"""Weight of a batch in the running mean of the codes' energy."""


class IrregularMember(Member):
    """Trains one irregular SAE: empty slots stay empty between moves, and every move ends with `entries` of them."""

    sae: IrregularSae

    def __init__(self, name: str, sae: IrregularSae, config: TrainConfig, statistics: InputStatistics) -> None:
        if config.flatness is not None:
            raise ExpanderSaeError("expected no flatness for an SAE with irregular degrees: its empty slots are zero")
        super().__init__(name, sae, config, statistics)
        self.energy = torch.ones(sae.n_latents, device=self.device, dtype=torch.float32)
        """Of the codes of recent batches, by latent."""

    def count(self, codes: Codes) -> None:
        """Follow the energy of the codes."""
        squares = codes.values.detach().square().reshape(-1)
        now = torch.zeros_like(self.energy).index_add_(0, codes.indices.reshape(-1), squares)
        self.energy.lerp_(now, _NEW)

    def restrict_gradients(self) -> None:
        """No gradient for empty slots."""
        gradient = self.sae.columns.raw.grad
        assert gradient is not None
        gradient.mul_(self.sae.present())

    def rewire(self, requests: Requests) -> None:
        """Move entries, then keep those that matter most."""
        super().rewire(requests)
        keep_entries(self.sae, self.energy, self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """With the energy."""
        return super().state_dict() | {"energy": self.energy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """With the energy."""
        super().load_state_dict(state)
        self.energy.copy_(state["energy"])
