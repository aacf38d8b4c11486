"""The codes of a whole harvest or text, as one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.activations import (
    ActivationStore,
    LanguageModel,
    TokenBlocks,
    d_in_of,
)
from expander_sae.activations.modules import activations_at
from expander_sae.activations.positions import check_context
from expander_sae.records import ExpanderSaeError, write_tensors
from expander_sae.saes import AbstractSae


class TokenBatch(NamedTuple):
    """Activations and where in the text they are."""

    x: Tensor
    """[batch, d_in]."""
    token_id: Tensor
    """int32 [batch]."""
    block: Tensor
    """Which block of text, int32 [batch]."""
    position: Tensor
    """Place in the block, int32 [batch]."""


def store_batches(
    store: ActivationStore, split: str, *, keep_special_tokens: bool = False, batch_size: int = 2048
) -> Iterator[TokenBatch]:
    """The activations of a split in stored order, with the tokens they belong to."""
    for file, tokens in store.shards(split):
        names = ("token_id", "block", "position")
        special = store.read_column(file, "special")
        columns = [store.read_column(file, name) for name in names]
        for start in range(0, tokens, batch_size):
            rows = slice(start, start + batch_size)
            x = store.read_rows(file, start, min(start + batch_size, tokens), keep_special_tokens=True)
            keep = torch.ones_like(special[rows]) if keep_special_tokens else ~special[rows]
            if bool(keep.any()):
                yield TokenBatch(x[keep], *(column[rows][keep] for column in columns))


def text_batches(
    blocks: TokenBlocks,
    language_model: LanguageModel,
    layer: int | str,
    *,
    keep_special_tokens: bool = False,
    sequences: int = 8,
) -> Iterator[TokenBatch]:
    """Run the model on a text and give the stream after block `layer` (counted from 0), or the output of the module of
    that name, token by token.

    Raises:
        ExpanderSaeError: a block is longer than the model has positions.
    """
    check_context(language_model.model, blocks.input_ids.shape[1])
    for start in range(0, len(blocks), sequences):
        batch = blocks[start : start + sequences]
        mask = batch.attention_mask.to(torch.bool)
        hidden = activations_at(language_model.model, layer, batch.input_ids, batch.attention_mask).cpu()
        keep = mask if keep_special_tokens else mask & ~batch.special
        if bool(keep.any()):
            block, position = keep.nonzero().unbind(1)
            yield TokenBatch(hidden[keep], batch.input_ids[keep], (block + start).int(), position.int())


@torch.no_grad()
def write_codes(
    sae: AbstractSae,
    batches: Iterator[TokenBatch],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str],
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Encode every batch and write one safetensors file; return the number of tokens.

    The file holds `indices` int32 and `values` float32, both [tokens, k] by falling value (zero values are unused
    slots), and `token_id`, `block`, `position` int32 [tokens]; `metadata` is in its header.

    Raises:
        ExpanderSaeError: there are no tokens, or the file cannot be written.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in ("indices", "values", "token_id", "block", "position")}
    done = 0
    for batch in batches:
        count = len(batch.x) if max_tokens is None else min(len(batch.x), max_tokens - done)
        if count <= 0:
            break
        codes = sae.encode(batch.x[:count].float().to(next(sae.parameters()).device))
        parts["indices"].append(codes.indices.to("cpu", torch.int32))
        parts["values"].append(codes.values.to("cpu", torch.float32))
        for name in ("token_id", "block", "position"):
            parts[name].append(getattr(batch, name)[:count].to(torch.int32))
        done += count
        if progress is not None:
            progress(count)
    if done == 0:
        raise ExpanderSaeError("expected at least one token to encode; got none")
    write_tensors(path, {name: torch.cat(part) for name, part in parts.items()}, metadata)
    return done


def check_width(sae: AbstractSae, language_model: LanguageModel) -> None:
    """Raise unless the SAE has the model's width."""
    width = d_in_of(language_model.model)
    if sae.d_in != width:
        raise ExpanderSaeError(
            f"expected an SAE of d_in {width}, that of {language_model.model_id}; got one of {sae.d_in}. "
            "Was it trained on another model?"
        )
