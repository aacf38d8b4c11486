"""Activations with their tokens in pieces of whole blocks of text: every window lies in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expander_sae.activations import ActivationStore


class Place(NamedTuple):
    """Rows of a shard."""

    file: str
    start: int
    stop: int


class Chunk(NamedTuple):
    """Tokens in stored order, of whole blocks."""

    x: Tensor
    """[tokens, d_in], stored dtype."""
    token: np.ndarray
    """Ids, int64 [tokens]."""
    block: np.ndarray
    """int64 [tokens], rising."""
    position: np.ndarray
    """In the block, int64 [tokens], rising in it."""

    def part(self, chosen: Tensor) -> Chunk:
        """Some of the tokens; bool [tokens]."""
        mine = chosen.numpy()
        return Chunk(self.x[chosen], self.token[mine], self.block[mine], self.position[mine])

    def first(self, count: int) -> Chunk:
        """The first so many tokens."""
        return Chunk(self.x[:count], self.token[:count], self.block[:count], self.position[:count])


def places(store: ActivationStore, split: str, size: int) -> Iterator[Place]:
    """Where the pieces of a split are: whole blocks, `size` rows or the least more than that."""
    for file, tokens in store.shards(split):
        block = store.read_column(file, "block").numpy()
        ends = np.append(np.flatnonzero(np.diff(block)) + 1, tokens)
        start = 0
        while start < tokens:
            stop = int(ends[min(np.searchsorted(ends, start + size), len(ends) - 1)])
            yield Place(file, start, stop)
            start = stop


def read(store: ActivationStore, place: Place, *, keep_special_tokens: bool) -> Chunk:
    """The tokens of a piece; without first positions and special tokens unless they are kept.

    Raises:
        ExpanderSaeError: the shard is damaged.
    """
    rows = slice(place.start, place.stop)
    x = store.read_rows(place.file, place.start, place.stop, keep_special_tokens=True)
    keep = torch.ones(len(x), dtype=torch.bool, device="cpu")
    if not keep_special_tokens:
        keep = ~store.read_column(place.file, "special")[rows]
    names = ("token_id", "block", "position")
    columns = (store.read_column(place.file, name)[rows][keep].numpy().astype(np.int64) for name in names)
    return Chunk(x[keep], *columns)
