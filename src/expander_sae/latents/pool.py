"""Windows of the text in which it is known which latents fire, and so which do not: what explanations are scored on.

Contexts only say where a latent fires. The pool is drawn before the pass, one window of a block at most, the same for
every view. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .connection import StoreFile
from .writing import StoreWriter

SIZE = 200
"""Windows of a pool."""


@dataclass(frozen=True, eq=False)
class PoolWindow:
    """A window of the text, and the latents of a view that fire anywhere in it."""

    block: int
    first: int
    """First token of the window in its block."""
    tokens: list[str]
    active: np.ndarray
    """Latents, rising, uint32."""

    def silent(self, latent: int) -> bool:
        """Whether the latent fires on none of its tokens."""
        place = int(np.searchsorted(self.active, latent))
        return place == len(self.active) or int(self.active[place]) != latent


def read_pool(store: StoreFile, view: int) -> list[PoolWindow]:
    """The pool of a store, for one of its views.

    Raises:
        ExpanderSaeError: the store is damaged.
    """
    rows = store.rows(
        "SELECT pool.block, first, length, latents, tokens FROM pool JOIN pool_fires USING (id) "
        "JOIN blocks ON blocks.id = pool.block WHERE view = ? ORDER BY pool.id",
        view,
    )
    spans = [store.array(row[-1], "<u4")[row[1] : row[1] + row[2]].tolist() for row in rows]
    words = store.words(one for span in spans for one in span)
    return [
        PoolWindow(block, first, [words[one] for one in span], store.array(latents, "<u4"))
        for (block, first, _, latents, _), span in zip(rows, spans, strict=True)
    ]


class Pool:
    """Collects, token by token, which latents fire in the windows.

    Args:
        lengths: tokens of each block, int [n_blocks].
        before: tokens of a window before the one in its middle.
        after: tokens behind it.
        size: windows, at most one of a block.
        seed: of the draw.
    """

    def __init__(
        self, lengths: np.ndarray, *, before: int = 24, after: int = 8, size: int = SIZE, seed: int = 0
    ) -> None:
        draw = np.random.default_rng((seed, 0x9001))
        usable = np.flatnonzero(lengths > 0)
        self.block = np.sort(draw.choice(usable, min(size, len(usable)), replace=False))
        middle = draw.integers(0, lengths[self.block])
        self.first = np.maximum(middle - before, 0)
        self.length = np.minimum(middle + after + 1, lengths[self.block]) - self.first
        self._fired: dict[int, list[np.ndarray]] = {}

    def see(self, view: int, block: np.ndarray, position: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
        """Codes of some tokens of the text.

        Args:
            view: of which they are.
            block: of each token, [tokens].
            position: of each in its block, [tokens].
            indices: latents, [tokens, k].
            values: their codes, [tokens, k]; 0 does not fire.
        """
        window = np.searchsorted(self.block, block)
        window[window == len(self.block)] = 0
        inside = position - self.first[window]
        mine = (self.block[window] == block) & (inside >= 0) & (inside < self.length[window])
        fires = values[mine] != 0
        pairs = (np.repeat(window[mine], fires.sum(1)).astype(np.int64) << 32) | indices[mine][fires].astype(np.int64)
        if len(pairs):
            self._fired.setdefault(view, []).append(np.unique(pairs))

    def write(self, writer: StoreWriter, views: int) -> None:
        """Write the windows, and for each view which latents fire in them; `blocks` must have theirs."""
        writer.pool(self.block, self.first, self.length)
        for view in range(views):
            pairs = self._pairs(view)
            ends = np.searchsorted(pairs, np.arange(len(self.block) + 1) << 32)
            latents = (pairs & 0xFFFFFFFF).astype(np.uint32)
            writer.pool_fires(view, [latents[a:b] for a, b in pairwise(ends)])

    def _pairs(self, view: int) -> np.ndarray:
        """(window << 32 | latent), rising and distinct, int64."""
        return np.unique(np.concatenate(self._fired.get(view, [np.empty(0, dtype=np.int64)])))

    def state(self) -> dict[str, np.ndarray]:
        """What was collected so far, by view, for `restore`."""
        return {str(view): self._pairs(view) for view in self._fired}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state` of a pool that was drawn alike."""
        self._fired = {int(view): [np.asarray(pairs, dtype=np.int64)] for view, pairs in state.items()}
