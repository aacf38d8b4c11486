"""Run a language model on from block `layer` with another stream, without the blocks before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.activations.models import decoder_blocks, splice_after_block
from expander_sae.activations.outputs import in_form_of
from expander_sae.activations.running import own_run, text_inputs, uncompiled


class _Bypass(nn.Module):
    """Stands where a block stood: returns its input, or `replacement`, in the block's own output form.

    Models ask their blocks for settings (the attention type, say), so any other attribute is the block's.
    """

    def __init__(self, block: nn.Module, form: Any, replacement: Tensor | None) -> None:
        super().__init__()
        # Past nn.Module's registry: a stand-in has no parameters or children of its own.
        object.__setattr__(self, "block", block)
        self.form = form
        self.replacement = replacement

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden state, alone or in what else the block would give."""
        hidden = self.replacement
        if hidden is None:
            hidden = args[0] if args else kwargs["hidden_states"]
        return in_form_of(self.form, hidden)


@contextmanager
def _bypassed(blocks: nn.ModuleList, layer: int, form: Any, new: Tensor) -> Iterator[None]:
    """While open, blocks 0 to `layer` do nothing and the stream leaves block `layer` as `new`."""
    originals = list(blocks[: layer + 1])
    try:
        for number, block in enumerate(originals):
            blocks[number] = _Bypass(block, form, new if number == layer else None)
        yield
    finally:
        for number, block in enumerate(originals):
            blocks[number] = block


class SecondHalf:
    """One batch of text in a language model: its clean run, and runs with another stream after `layer`.

    The first blocks are the same whatever is spliced in after them, so `logits_with` skips them where the
    family allows it: `skips` tells. It is found out on the first batch, by comparing the clean logits with
    those of a run that skips to the clean stream; a family whose later blocks need more than the stream of
    the earlier ones fails that comparison and gets the full forward pass.
    """

    def __init__(self, model: Any, layer: int) -> None:
        self.model = uncompiled(model)
        self.layer = layer
        self.skips: bool | None = None
        self._inputs: dict[str, Any] = {}
        self._form: Any = None

    def run_clean(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take up a batch [batch, position] and run all of the model on it.

        Returns:
            The stream after block `layer` [batch, position, d_in] and the logits [batch, position,
            vocabulary], both in the model's own dtype.

        Raises:
            ExpanderSaeError: `layer` is out of range.
        """
        self._inputs = text_inputs(self.model, input_ids, attention_mask)
        streams: list[Tensor] = []
        forms: list[Any] = []

        def see_form(_block: nn.Module, _inputs: Any, output: Any) -> None:
            forms.append(output)

        with own_run(self.model), splice_after_block(self.model, self.layer, streams.append):
            handle = decoder_blocks(self.model)[self.layer].register_forward_hook(see_form)
            try:
                logits = self.model(**self._inputs).logits
            finally:
                handle.remove()
        hidden, self._form = streams[0], forms[0]
        if self.skips is None:
            self.skips = self._can_skip(hidden, logits)
        return hidden, logits

    def logits_with(self, new: Tensor) -> Tensor:
        """Logits of the same batch with the stream after block `layer` replaced by `new`."""
        if self.skips:
            return self._skip_to(new)
        with own_run(self.model), splice_after_block(self.model, self.layer, lambda _hidden: new):
            return self.model(**self._inputs).logits

    def _skip_to(self, new: Tensor) -> Tensor:
        with own_run(self.model), _bypassed(decoder_blocks(self.model), self.layer, self._form, new):
            return self.model(**self._inputs).logits

    def _can_skip(self, hidden: Tensor, logits: Tensor) -> bool:
        try:
            skipped = self._skip_to(hidden)
        # Whatever a family may raise when its earlier blocks did not run; the full pass is the answer to all.
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):
            return False
        return skipped.shape == logits.shape and torch.allclose(skipped, logits, rtol=1e-4, atol=1e-4)
