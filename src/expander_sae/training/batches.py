"""The batches of one training pass, with what the trainer asks of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore, ActivationStream
from expander_sae.records import ExpanderSaeError
from expander_sae.saes.init import norm_limit, token_norms

from .config import TrainConfig

HELDOUT_TOKENS = 1024
"""Held-out activations that a pass is followed on: what differs along it and between SAEs, not the last digit."""


def largest_norm(sample: Tensor, config: TrainConfig) -> float | None:
    """The norm above which a pass leaves a token out, from a sample [tokens, d_in]; None where it keeps all."""
    if config.inputs.outlier_medians is None:
        return None
    return norm_limit(token_norms(sample, "activations"), config.inputs.outlier_medians)


def some_rows(x: Tensor, n: int, seed: int) -> Tensor:
    """At most n rows of x drawn without replacement, in their order."""
    generator = torch.Generator().manual_seed(seed)
    return x[torch.randperm(len(x), generator=generator, device="cpu")[:n].sort().values]


def heldout_sample(store: ActivationStore, config: TrainConfig, *, keep_special_tokens: bool = False) -> Tensor | None:
    """Activations of a store's "heldout" split [tokens, d_in], float32, for `train` to follow a pass on.

    Tokens of a norm above `config.inputs.outlier_medians` times the sample's median are left out. None where the config
    asks for no measurements, or where there are fewer than two tokens.

    Raises:
        ExpanderSaeError: a token is NaN or infinite.
    """
    if not config.watch.heldout_every:
        return None
    x = store.sample("heldout", HELDOUT_TOKENS, 0, keep_special_tokens=keep_special_tokens)
    if config.inputs.outlier_medians is not None and len(x):
        norms = token_norms(x, "held-out activations")
        x = x[norms <= norm_limit(norms, config.inputs.outlier_medians)]
    return x if len(x) > 1 else None


class StoreBatches:
    """Shuffled, endless, resumable batches of a store's "train" split, as `train` wants them.

    Example:
        >>> stream = StoreBatches(ActivationStore.open("acts"), TrainConfig())  # doctest: +SKIP
    """

    def __init__(self, store: ActivationStore, config: TrainConfig, *, keep_special_tokens: bool = False) -> None:
        self.store = store
        self.keep_special_tokens = keep_special_tokens
        self._stream = ActivationStream(
            store,
            batch_size=config.batch_size,
            seed=config.seed,
            keep_special_tokens=keep_special_tokens,
            with_replacement=config.inputs.with_replacement,
        )

    def __next__(self) -> Tensor:
        """x [batch, d_in], float32."""
        return next(self._stream)

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Some ordinary activations [at most n, d_in], spread over the split."""
        return self.store.sample("train", n, seed)

    def describe(self) -> dict[str, Any]:
        """Which activations these are."""
        return {
            **self.store.manifest["settings"],
            "text_source": self.store.manifest.get("text_source"),
            "keep_special_tokens": self.keep_special_tokens,
            "tokens": self.store.n_tokens("train", keep_special_tokens=self.keep_special_tokens),
        }

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved place."""
        self._stream.load_state_dict(state)


class FirstTokens(StoreBatches):
    """Endless, shuffled, resumable batches of a store's first `tokens` training tokens, held in memory.

    What less data does, with everything else the same: a smaller number of tokens is a part of a larger one. Epoch by
    epoch in a fresh order, or independent draws where the config says `with_replacement`.

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
        return some_rows(self.x, n, seed).float()

    def describe(self) -> dict[str, Any]:
        """Which activations these are."""
        return {**super().describe(), "tokens": len(self.x), "first_tokens_only": True}

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return {"generator": self._generator.get_state(), "order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved place."""
        self._generator.set_state(state["generator"])
        self._order = state["order"]
