"""Activations in memory, with a sparse structure to find."""

from typing import Any

import torch
from torch import Tensor


def sparse_activations(tokens: int = 4000, d_in: int = 48, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(200, d_in, generator=generator)
    codes = torch.zeros(tokens, 200)
    codes.scatter_(1, torch.rand(tokens, 200, generator=generator).topk(5).indices, 1.0)
    return codes @ atoms + 3.0


class MemorySource:
    """Draws batches with replacement from x."""

    def __init__(self, x: Tensor, batch_size: int = 256, seed: int = 0) -> None:
        self.x, self.batch_size, self.generator = x, batch_size, torch.Generator().manual_seed(seed)
        self.batches = 0
        self.interrupt_at: int | None = None

    def __next__(self) -> Tensor:
        if self.batches == self.interrupt_at:
            raise KeyboardInterrupt
        self.batches += 1
        return self.x[torch.randint(0, len(self.x), (self.batch_size,), generator=self.generator, device="cpu")]

    def sample(self, n: int, *, seed: int) -> Tensor:
        del seed
        return self.x[:n]

    def describe(self) -> dict[str, Any]:
        return {"source": "memory", "sum": float(self.x.sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.batches = state["batches"]
