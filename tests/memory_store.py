"""An activation store held in memory: the part of `ActivationStore` that evaluation and training read."""

import torch
from tiny_models import make_documents

from expander_sae.activations.models import LanguageModel, residual_after_block
from expander_sae.activations.tokens import TokenBlocks


class MemoryStore:
    """x [tokens, d_in] of both splits, in blocks of 100 tokens, and the text behind them, if any."""

    def __init__(self, x, special=None, tokens=None, *, layer=1, model_id="tiny", revision="sha256:0"):
        self.x = x
        self.special = special or {split: torch.zeros(len(rows), dtype=torch.bool) for split, rows in x.items()}
        self.text = tokens or {}
        self.d_in = next(iter(x.values())).shape[1]
        self.layer = layer
        self.manifest = {"settings": {"model_id": model_id, "model_revision": revision, "layer": layer}}

    def n_tokens(self, split):
        return len(self.x[split])

    def blocks(self, split, *, keep_special_tokens=False, max_tokens=None):
        x = self.x[split]
        if not keep_special_tokens:
            x = x[~self.special[split]]
        yield from x[:max_tokens].split(100)

    def tokens(self, split):
        return self.text[split]


def harvest_in_memory(language_model: LanguageModel, *, layer=1, width=24, documents=12) -> MemoryStore:
    """What harvesting small documents gives: one block each, the first position special."""
    x, special, text = {}, {}, {}
    for number, split in enumerate(("train", "heldout")):
        ids = [
            language_model.tokenizer(text, add_special_tokens=False)["input_ids"][:width]
            for text in make_documents(documents, seed=number)
        ]
        blocks = TokenBlocks(
            torch.tensor(ids, dtype=torch.int32),
            torch.full((documents,), width, dtype=torch.int32),
            (torch.arange(width) == 0).expand(documents, width).clone(),
        )
        hidden = residual_after_block(language_model.model, blocks.input_ids, blocks.attention_mask, layer)
        x[split] = hidden.reshape(-1, hidden.shape[-1])
        special[split] = blocks.special.reshape(-1)
        text[split] = blocks
    return MemoryStore(x, special, text, layer=layer, revision=language_model.revision)
