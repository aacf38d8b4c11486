"""The codes of a piece of text that are not zero, by latent."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from .chunks import Chunk

PLACES = np.uint64(0xFFFFFFFF)


class Fires:
    """Where the latents of one view fire in a piece of text: arrays [firings] by latent, then by place.

    Args:
        chunk: the tokens.
        indices: of codes, [tokens, k].
        values: of codes, [tokens, k].
        length: tokens of a block at most.
    """

    def __init__(self, chunk: Chunk, indices: Tensor, values: Tensor, length: int) -> None:
        codes = values.cpu().numpy().astype(np.float32, copy=False)
        token, slot = np.nonzero(codes)
        latent = indices.cpu().numpy()[token, slot].astype(np.int64)
        order = np.argsort(latent, kind="stable")
        self.length = length
        self.latent = latent[order]
        self.value = codes[token, slot][order]
        self.size = np.abs(self.value)
        """|code|, float32."""
        self._token = token[order]
        self._chunk = chunk
        self._first_block = int(chunk.block[0]) if len(chunk.block) else 0
        self.span = length * (int(chunk.block[-1]) - self._first_block + 1 if len(chunk.block) else 1)

    @cached_property
    def token_id(self) -> np.ndarray:
        """int64."""
        return self._chunk.token[self._token]

    @cached_property
    def block(self) -> np.ndarray:
        """int64."""
        return self._chunk.block[self._token]

    @cached_property
    def place(self) -> np.ndarray:
        """block * length + position, int64: where in the text, in reading order."""
        return self.block * self.length + self._chunk.position[self._token]

    @cached_property
    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """The latents that fire, rising, and where their entries begin."""
        begin = np.flatnonzero(np.diff(self.latent, prepend=-1))
        return self.latent[begin], begin

    @cached_property
    def _cell(self) -> np.ndarray:
        return self.latent * self.span + (self.place - self._first_block * self.length)

    def windows(self, entries: np.ndarray, before: int, after: int) -> np.ndarray:
        """The latent's codes on the tokens around some firings, [entries, before + 1 + after] float32.

        A window begins `before` tokens earlier or with its block, and what lies behind the block is 0.
        """
        position = self.place[entries] % self.length
        first = self.place[entries] - np.minimum(position, before)
        last = self.place[entries] + np.minimum(self.length - 1 - position, after)
        base = self.latent[entries] * self.span - self._first_block * self.length
        low = np.searchsorted(self._cell, base + first)
        counts = np.searchsorted(self._cell, base + last, side="right") - low
        row = np.repeat(np.arange(len(entries)), counts)
        found = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + low[row]
        values = np.zeros((len(entries), before + 1 + after), dtype=np.float32)
        values[row, self.place[found] - first[row]] = self.value[found]
        return values
