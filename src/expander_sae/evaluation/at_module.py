"""Run a language model with the output of one of its modules replaced."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from expander_sae.activations.modules import changed_output
from expander_sae.activations.running import own_run, text_inputs, uncompiled


class AtModule:
    """One batch of text in a language model: its clean run, and runs with another output of a module.

    What `SecondHalf` is for blocks, for a module of any kind: nothing is known of what depends on it, so every run is a
    full forward pass.
    """

    def __init__(self, model: Any, module: str) -> None:
        self.model = uncompiled(model)
        self.module = module
        self._inputs: dict[str, Any] = {}

    def run_clean(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take up a batch [batch, position] and run the model on it.

        Returns:
            The module's output [batch, position, d_in] and the logits [batch, position, vocabulary].

        Raises:
            ExpanderSaeError: there is no such module.
        """
        self._inputs = text_inputs(self.model, input_ids, attention_mask)
        seen: list[Tensor] = []
        with own_run(self.model), changed_output(self.model, self.module, seen.append):
            logits = self.model(**self._inputs).logits
        return seen[0], logits

    def logits_with(self, new: Tensor) -> Tensor:
        """Logits of the same batch with the module's output replaced by `new`."""
        with own_run(self.model), changed_output(self.model, self.module, lambda _hidden: new):
            return self.model(**self._inputs).logits
