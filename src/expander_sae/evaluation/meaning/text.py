"""The words behind token blocks: what stands where, in strings that a rule can be read off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from expander_sae.activations import TokenBlocks

_LETTERS, _DIGITS = re.compile(r"[^\W\d_]+\Z"), re.compile(r"\d+\Z")


@dataclass(frozen=True)
class Text:
    """Every place of some token blocks, block after block: arrays [n_blocks * length], padding included.

    A *word* is a run of letters or of digits; a token that is neither is a word by itself.
    """

    token: np.ndarray
    """Token ids, int64."""
    piece: np.ndarray
    """What the token says, with the space before it; str."""
    word: np.ndarray
    """The whole word that the token is a part of, without spaces; str."""
    starts: np.ndarray
    """Whether it is the first token of its word; bool."""
    real: np.ndarray
    """Whether there is a token, and no padding; bool."""
    document: np.ndarray
    """Number of the document its block is from, int64; see `documents_of`."""
    length: int
    """Places in a block."""

    @property
    def block(self) -> np.ndarray:
        """Number of the block, int64."""
        return np.arange(len(self.token)) // self.length

    @property
    def position(self) -> np.ndarray:
        """Place in the block, int64."""
        return np.arange(len(self.token)) % self.length

    def places(self, block: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Where tokens of these blocks and positions are in the arrays."""
        return block.astype(np.int64) * self.length + position

    def shifted(self, values: np.ndarray, by: int) -> np.ndarray:
        """The values `by` places later (earlier if negative) in the same block; False or an empty string outside."""
        out = np.full_like(values, "" if values.dtype == object else False)
        table, into = values.reshape(-1, self.length), out.reshape(-1, self.length)
        if by > 0:
            into[:, :-by] = table[:, by:]
        else:
            into[:, -by:] = table[:, :by]
        return out


def read_text(blocks: TokenBlocks, tokenizer: Any) -> Text:
    """The words of token blocks, by the tokenizer that made them."""
    ids = blocks.input_ids.numpy().astype(np.int64)
    length = ids.shape[1]
    known = {int(token): piece_of(tokenizer, int(token)) for token in np.unique(ids)}
    real = np.arange(length) < blocks.lengths.numpy()[:, None]
    piece = np.array([known[token] for token in ids.ravel().tolist()], dtype=object)
    piece[~real.ravel()] = ""
    word, starts = words_of(piece, length)
    document = np.repeat(documents_of(blocks), length)
    return Text(ids.ravel(), piece, word, starts, real.ravel(), document, length)


def documents_of(blocks: TokenBlocks) -> np.ndarray:
    """Which document each block is from, int64 [n_blocks].

    Harvests of earlier releases do not say it. There a document is taken to end with every block that is padded, since
    the last piece of a document is shorter than the rest; one whose end fell on a block's end, or whose rest was too
    short to be kept, is joined with the one that follows: two documents may be taken for one, one is never taken for
    two.
    """
    if blocks.documents is not None:
        return blocks.documents.numpy().astype(np.int64)
    short = blocks.lengths.numpy() < blocks.input_ids.shape[1]
    return np.concatenate([[0], np.cumsum(short)[:-1]]).astype(np.int64)


def piece_of(tokenizer: Any, token: int) -> str:
    """What a token says. `decode` leaves the space out where a tokenizer marks it by a lower block."""
    name = tokenizer.convert_ids_to_tokens(token)
    said = tokenizer.decode([token])
    return f" {said.lstrip()}" if isinstance(name, str) and name.startswith("\u2581") else said


def words_of(piece: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The word of each piece and whether it starts one; a token that is only a space starts the word behind it."""
    word, starts = np.empty(len(piece), dtype=object), np.ones(len(piece), dtype=bool)
    begin, before = 0, ""
    for place, text in enumerate(piece.tolist()):
        if place % length == 0 or not _goes_on(before, text):
            word[begin:place] = "".join(piece[begin:place]).strip()
            begin = place
        starts[place] = place == begin
        before = text
    word[begin:] = "".join(piece[begin:]).strip()
    return word, starts


def _goes_on(before: str, piece: str) -> bool:
    if before == " ":
        return bool(piece) and not piece[0].isspace()
    return any(kind.match(before.strip()) and kind.match(piece) for kind in (_LETTERS, _DIGITS))
