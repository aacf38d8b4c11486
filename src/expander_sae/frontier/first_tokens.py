"""Batches from the first so many stored tokens: what less data does, with everything else the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore
from expander_sae.records import ExpanderSaeError
from expander_sae.training import TrainConfig


class FirstTokens:
    """Endless shuffled batches of the first `tokens` training tokens, held in memory, as `train` wants them.

    Epoch by epoch in a fresh order, or independent draws where the config says `with_replacement`. A smaller number of
    tokens is a part of a larger one.

    Raises:
        ExpanderSaeError: the store has fewer tokens, or the number is below two.
    """

    def __init__(
        self, store: ActivationStore, config: TrainConfig, tokens: int, *, keep_special_tokens: bool = False
    ) -> None:
        stored = store.n_tokens("train", keep_special_tokens=keep_special_tokens)
        if not 2 <= tokens <= stored:
            raise ExpanderSaeError(f"expected 2 to {stored:,} training tokens, those there are; got {tokens:,}")
        self.x = torch.cat(list(store.blocks("train", keep_special_tokens=keep_special_tokens, max_tokens=tokens)))
        self.store, self.config, self.keep_special_tokens = store, config, keep_special_tokens
        self._generator = torch.Generator().manual_seed(config.seed)
        self._order = torch.empty(0, dtype=torch.int64, device="cpu")

    def __next__(self) -> Tensor:
        """x [batch, d_in], float32."""
        size = self.config.batch_size
        if self.config.inputs.with_replacement:
            return self.x[torch.randint(len(self.x), (size,), generator=self._generator, device="cpu")].float()
        while len(self._order) < size:
            self._order = torch.cat([self._order, torch.randperm(len(self.x), generator=self._generator, device="cpu")])
        chosen, self._order = self._order[:size], self._order[size:]
        return self.x[chosen].float()

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Some of the tokens [at most n, d_in]."""
        order = (
            torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed), device="cpu")[:n].sort().values
        )
        return self.x[order].float()

    def describe(self) -> dict[str, Any]:
        """Which activations these are."""
        return {
            **self.store.manifest["settings"],
            "text_source": self.store.manifest.get("text_source"),
            "keep_special_tokens": self.keep_special_tokens,
            "tokens": len(self.x),
            "first_tokens_only": True,
        }

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return {"generator": self._generator.get_state(), "order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved place."""
        self._generator.set_state(state["generator"])
        self._order = state["order"]
