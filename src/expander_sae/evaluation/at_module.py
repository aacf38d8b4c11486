"""Run a language model with the output of one of its modules replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expander_sae.activations.modules import changed_output


class AtModule:
    """One batch of text in a language model: its clean run, and runs with another output of a module.

    What `SecondHalf` is for blocks, for a module of any kind: nothing is known of what depends on it, so every run is a
    full forward pass.
    """

    def __init__(self, model: Any, module: str) -> None:
        self.model = model
        self.module = module
        self._inputs: dict[str, Any] = {}

    @torch.no_grad()
    def run_clean(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take up a batch [batch, position] and run the model on it.

        Returns:
            The module's output [batch, position, d_in] and the logits [batch, position, vocabulary].

        Raises:
            ExpanderSaeError: there is no such module.
        """
        device = next(self.model.parameters()).device
        self._inputs = {
            "input_ids": input_ids.to(device, torch.int64),
            "attention_mask": attention_mask.to(device),
            "use_cache": False,
        }
        seen: list[Tensor] = []
        with changed_output(self.model, self.module, seen.append):
            logits = self.model(**self._inputs).logits
        return seen[0], logits

    @torch.no_grad()
    def logits_with(self, new: Tensor) -> Tensor:
        """Logits of the same batch with the module's output replaced by `new`."""
        with changed_output(self.model, self.module, lambda _hidden: new):
            return self.model(**self._inputs).logits
