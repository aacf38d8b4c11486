"""What a text is to a probe: the mean over its tokens of the model's channels, and of the codes of SAEs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from expander_sae.activations import LanguageModel, TokenBlocks
from expander_sae.activations.tokens import adds_bos, special_ids
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..codes import text_batches
from .features import Features, latent_features

CONTEXT = 128
"""Tokens of a text that are read; SAEBench's."""


class Means(NamedTuple):
    """Features whose rows are texts."""

    channels: Features
    """The model's own channels, named "channels"."""
    latents: dict[str, Features]
    """The codes of each SAE."""
    tokens: int
    """Tokens behind them."""


def text_means(
    texts: Sequence[str],
    language_model: LanguageModel,
    layer: int,
    saes: Mapping[str, AbstractSae],
    *,
    context: int = CONTEXT,
    keep_special_tokens: bool = False,
    sequences: int = 16,
    say: Callable[[int], None] = lambda _texts: None,
) -> Means:
    """Run the model on each text and average what its ordinary tokens say.

        mean of latent j over text t = 1/|t| sum of the code of j at each token of t

    Ordinary tokens are neither special nor first in the text. A text without any has means of zero.

    Args:
        texts: each is one sequence, cut off after `context` tokens.
        language_model: runs as far as the layer.
        layer: block after which the stream is read, counted from 0.
        saes: by name; each is asked for codes by its own reading.
        context: tokens.
        keep_special_tokens: also count special tokens and first positions.
        sequences: texts that the model reads at once.
        say: told how many texts are done.

    Raises:
        ExpanderSaeError: an SAE has another width than the stream.
    """
    ids = tokenised(texts, language_model.tokenizer, context)
    order = np.argsort([len(mine) for mine in ids], kind="stable")  # alike in length, so that little is padding
    channels: Tensor | None = None
    parts: dict[str, list[sparse.csr_matrix]] = {name: [] for name in saes}
    rows_of: list[np.ndarray] = []
    tokens = 0
    for start in range(0, len(order), sequences):
        rows = order[start : start + sequences]
        blocks = one_block_each([ids[row] for row in rows], language_model.tokenizer)
        for batch in text_batches(
            blocks, language_model, layer, keep_special_tokens=keep_special_tokens, sequences=len(blocks)
        ):
            x = batch.x.float()
            if channels is None:
                channels = torch.zeros(len(texts), x.shape[1])
                _check_widths(saes, x.shape[1])
            average = averaging(batch.block.numpy(), len(rows))
            channels[torch.from_numpy(rows)] = torch.from_numpy(average @ x.numpy()).float()
            for name, sae in saes.items():
                parts[name].append(sparse.csr_matrix(average @ latent_features(name, sae, x).values))
            rows_of.append(rows)
            tokens += len(x)
        say(min(start + sequences, len(order)))
    if channels is None:
        raise ExpanderSaeError("expected texts with a token that is not special; got none")
    written = np.concatenate(rows_of)
    spread = sparse.csr_matrix(
        (np.ones(len(written)), (written, np.arange(len(written)))), shape=(len(texts), len(written))
    )
    latents = {name: Features(name, sparse.csc_matrix(spread @ sparse.vstack(mine))) for name, mine in parts.items()}
    return Means(Features("channels", sparse.csc_matrix(channels.double().numpy())), latents, tokens)


def averaging(text: np.ndarray, n_texts: int) -> sparse.csr_matrix:
    """The matrix [texts, tokens] that averages over the tokens of each text.

    Example:
        >>> import numpy as np
        >>> (averaging(np.array([0, 0, 1]), 2) @ np.array([1.0, 3.0, 5.0])).tolist()
        [2.0, 5.0]
    """
    counts = np.bincount(text, minlength=n_texts)
    return sparse.csr_matrix((1.0 / counts[text], (text, np.arange(len(text)))), shape=(n_texts, len(text)))


def tokenised(texts: Sequence[str], tokenizer: Any, context: int) -> list[list[int]]:
    """The first `context` token ids of each text, with the token of the beginning where the tokenizer puts one."""
    begin = [int(tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
    if context < len(begin) + 2:
        raise ExpanderSaeError(f"expected a context of at least {len(begin) + 2} tokens; got {context}")
    cut = [text[: 100 * context] for text in texts]  # what is far behind the context need not be read
    found = tokenizer(cut, add_special_tokens=False, verbose=False)["input_ids"] if cut else []
    return [(begin + mine)[:context] for mine in found]


def one_block_each(ids: Sequence[Sequence[int]], tokenizer: Any) -> TokenBlocks:
    """Token ids of texts, each a block, as wide as the longest."""
    specials = special_ids(tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (specials or [0])[0]
    lengths = torch.tensor([len(mine) for mine in ids], dtype=torch.int32)
    table = torch.full((len(ids), max(1, int(lengths.max()))), int(padding), dtype=torch.int32)
    for row, mine in zip(table, ids, strict=True):
        row[: len(mine)] = torch.tensor(mine, dtype=torch.int32)
    special = torch.isin(table, torch.tensor(specials, dtype=torch.int32))
    special |= torch.arange(table.shape[1]) >= lengths[:, None]
    special[:, 0] = True
    return TokenBlocks(table, lengths, special)


def _check_widths(saes: Mapping[str, AbstractSae], d_in: int) -> None:
    for name, sae in saes.items():
        if sae.d_in != d_in:
            raise ExpanderSaeError(f"expected an SAE of d_in {d_in}, the model's; got {sae.d_in} in {name}")
