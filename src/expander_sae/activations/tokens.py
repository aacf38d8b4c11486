"""Documents to blocks of token ids, with the truth about padding and special tokens."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from expander_sae.records import ExpanderSaeError, write_atomically

from .documents import SPLITS, TextSource, document_hash, read_documents, split_rule

MIN_PIECE = 16
"""A last piece of a document with fewer tokens than this is left out."""


@dataclass(frozen=True)
class TokenBlocks:
    """Token ids in blocks of equal width.

    `input_ids` int32 [n_blocks, length], padded on the right; `lengths` int32 [n_blocks], how many are real;
    `special` bool [n_blocks, length], true for special tokens, the first position of each block, and padding;
    `documents` int32 [n_blocks], the number of the document each block is from, None where that is not known.
    """

    input_ids: Tensor
    lengths: Tensor
    special: Tensor
    documents: Tensor | None = None

    def __len__(self) -> int:
        """Number of blocks."""
        return self.input_ids.shape[0]

    def __getitem__(self, blocks: slice) -> "TokenBlocks":
        """Some of the blocks."""
        documents = None if self.documents is None else self.documents[blocks]
        return TokenBlocks(self.input_ids[blocks], self.lengths[blocks], self.special[blocks], documents)

    @property
    def attention_mask(self) -> Tensor:
        """int64 [n_blocks, length], 1 where there is a token."""
        positions = torch.arange(self.input_ids.shape[1], device="cpu")
        return (positions < self.lengths[:, None]).to(torch.int64)

    @property
    def n_tokens(self) -> int:
        """Real tokens, special ones included."""
        return int(self.lengths.sum(dtype=torch.int64))

    @property
    def n_ordinary_tokens(self) -> int:
        """Real tokens that are neither special nor first in their block."""
        return int((~self.special).sum())

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write as safetensors, atomically, and return the SHA-256 of the file."""
        tensors = {"input_ids": self.input_ids, "lengths": self.lengths, "special": self.special.to(torch.uint8)}
        data = save(tensors if self.documents is None else {**tensors, "documents": self.documents})
        with write_atomically(path) as temporary:
            temporary.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TokenBlocks":
        """Read what `save` wrote.

        Raises:
            ExpanderSaeError: the file is missing or damaged.
        """
        try:
            tensors = load_file(path)
            special = tensors["special"].to(torch.bool)
            return cls(tensors["input_ids"], tensors["lengths"], special, tensors.get("documents"))
        except (OSError, SafetensorError, KeyError) as error:
            raise ExpanderSaeError(
                f"expected token blocks in {path}; got a file that cannot be read: {error}"
            ) from error


@dataclass(frozen=True)
class TokenizedText:
    """Both splits of a text, and a hash over the documents that went in."""

    blocks: dict[str, TokenBlocks]
    n_documents: dict[str, int]
    text_sha256: str
    bos: bool


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of everything a tokenizer knows."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of all tokens that stand for no text."""
    ids = set(tokenizer.all_special_ids)
    ids.update(i for i, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", False))
    return sorted(ids)


def adds_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer begins a text with its beginning-of-sequence token by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 0 and ids[0] == tokenizer.bos_token_id


def tokenize(
    source: TextSource,
    tokenizer: Any,
    *,
    context: int = 256,
    heldout_share: float = 0.1,
    seed: int = 0,
    max_tokens: int | None = None,
    max_heldout_tokens: int | None = None,
    max_document_tokens: int | None = None,
    bos: bool | None = None,
    min_piece: int = MIN_PIECE,
    field: str = "text",
    dataset_split: str = "train",
    on_document: Callable[[], None] | None = None,
) -> TokenizedText:
    """Split a text by document, tokenise each document by itself, and cut it into blocks of `context` tokens.

    `max_tokens` limits the train split; the held-out split is limited by `max_heldout_tokens`, by default
    `max_tokens` times the ratio of the shares. `max_document_tokens` spreads a small limit over many
    documents. With `bos` (by default, when the tokenizer does so itself) every block begins with the
    beginning-of-sequence token. A last piece of at least `min_piece` tokens is kept, padded.

    Raises:
        ExpanderSaeError: the text cannot be read or split, or a setting is impossible.
    """
    bos = adds_bos(tokenizer) if bos is None else bos
    if bos and tokenizer.bos_token_id is None:
        raise ExpanderSaeError(
            "expected a tokenizer with a beginning-of-sequence token; got one without. Use --no-bos."
        )
    if min_piece < 1:
        raise ExpanderSaeError(f"expected pieces of at least 1 token; got a least length of {min_piece}")
    if context < 2 + bos:
        raise ExpanderSaeError(f"expected a context of at least {2 + bos} tokens; got {context}")
    if max_heldout_tokens is None and max_tokens is not None:
        max_heldout_tokens = max(context, round(max_tokens * heldout_share / (1 - heldout_share)))

    def documents() -> Iterator[str]:
        return read_documents(source, field=field, dataset_split=dataset_split)

    side_of = split_rule(documents(), heldout_share=heldout_share, seed=seed)
    limits = {"train": max_tokens, "heldout": max_heldout_tokens if heldout_share > 0 else 0}
    cutters = {
        split: _Cutter(context, tokenizer.bos_token_id if bos else None, limit, min_piece)
        for split, limit in limits.items()
    }
    digest = hashlib.sha256()
    for text in documents():
        cutter = cutters[side_of(text)]
        digest.update(document_hash(text))
        if not cutter.full:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            cutter.add(np.asarray(ids[:max_document_tokens], dtype=np.int32))
        if on_document is not None:
            on_document()
        if all(cutter.full for cutter in cutters.values()):
            break
    specials = special_ids(tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (specials or [0])[0]
    blocks = {split: cutters[split].blocks(padding, specials) for split in SPLITS}
    if len(blocks["train"]) == 0:
        raise ExpanderSaeError(
            f"expected at least one document of {min(min_piece, context)} tokens to train on; got none in {source}"
        )
    if heldout_share > 0 and len(blocks["heldout"]) == 0:
        raise ExpanderSaeError(
            f"expected held-out documents of at least {min(min_piece, context)} tokens; got none. "
            "Give more text, a larger held-out share or another seed."
        )
    return TokenizedText(blocks, {split: cutters[split].n_documents for split in SPLITS}, digest.hexdigest(), bool(bos))


class _Cutter:
    """Collects one split: documents in, blocks of at most `context` tokens out, until the limit."""

    def __init__(self, context: int, bos_id: int | None, limit: int | None, min_piece: int) -> None:
        self._context = context
        self._min_piece = min(min_piece, context)
        self._bos = [] if bos_id is None else [bos_id]
        self._left = limit
        self._pieces: list[np.ndarray] = []
        self._documents: list[int] = []
        self.n_documents = 0

    @property
    def full(self) -> bool:
        return self._left is not None and self._left < self._min_piece

    def add(self, ids: np.ndarray) -> None:
        step = self._context - len(self._bos)
        used = False
        for start in range(0, len(ids), step):
            if self.full:
                break
            # A text may say it itself, once or more; the model expects it once.
            said = ids[start : start + step]
            while self._bos and len(said) and said[0] == self._bos[0]:
                said = said[1:]
            piece = np.concatenate([np.asarray(self._bos, dtype=np.int32), said])
            piece = piece[: self._left]
            if len(piece) < self._min_piece:
                break
            self._pieces.append(piece)
            self._documents.append(self.n_documents)
            used = True
            if self._left is not None:
                self._left -= len(piece)
        self.n_documents += used

    def blocks(self, padding: int, specials: list[int]) -> TokenBlocks:
        input_ids = np.full((len(self._pieces), self._context), padding, dtype=np.int32)
        lengths = np.asarray([len(piece) for piece in self._pieces], dtype=np.int32)
        for row, piece in zip(input_ids, self._pieces, strict=True):
            row[: len(piece)] = piece
        special = np.isin(input_ids, specials)
        special |= np.arange(self._context) >= lengths.reshape(-1, 1)
        special[:, :1] = True
        documents = torch.tensor(self._documents, dtype=torch.int32, device="cpu")
        return TokenBlocks(torch.from_numpy(input_ids), torch.from_numpy(lengths), torch.from_numpy(special), documents)
