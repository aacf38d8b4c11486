"""What one pass over the text gathers of one view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.ops import Codes

from .best import Best, keys, random_bits, size_bits
from .chunks import Chunk
from .fires import Fires
from .numbers import Numbers
from .pairs import Pairs
from .settings import Settings, Source
from .together import Sample

ENCODED_AT_ONCE = 2_048
"""Tokens."""


class Collected:
    """Small arrays a latent; see docs/guides/latent-store.md.

    Args:
        source: the view.
        settings: of the store.
        length: tokens of a block at most.
        folder: for what does not fit in memory.
        number: of the view.
    """

    def __init__(self, source: Source, settings: Settings, length: int, folder: Path, number: int) -> None:
        n = source.sae.n_latents
        self.source, self.settings, self.length = source, settings, length
        self.numbers = Numbers(n)
        self.top = Best(n, settings.contexts, settings.window)
        self.drawn = Best(n, 4 * settings.per_quantile, settings.window)
        self.pairs = Pairs(folder, f"view{number}")
        self.sample = Sample(seed=settings.seed)
        self.error = 0.0
        """Sum of squared errors."""

    @torch.no_grad()
    def add(self, chunk: Chunk, x: Tensor) -> Codes:
        """Read a piece of text; x [tokens, d_in] float32, where the SAE is. Its codes, on the CPU."""
        codes = [self.source.sae.encode(part) for part in x.split(ENCODED_AT_ONCE)]
        for part, found in zip(x.split(ENCODED_AT_ONCE), codes, strict=True):
            self.error += float((part - self.source.sae.decode(found)).square().sum(1).double().sum())
        width = max(found.values.shape[1] for found in codes)
        indices, values = (torch.cat([_widened(found[i], width) for found in codes]).cpu() for i in (0, 1))
        whole = Codes(indices, values)
        fires = Fires(chunk, whole.indices, whole.values, self.length)
        self.numbers.add(fires)
        self.pairs.add(fires)
        self.sample.add(fires)
        self._offer_top(fires)
        self._offer_drawn(fires)
        return whole

    def _offer_top(self, fires: Fires) -> None:
        """The highest activations, one of a block."""
        key = keys(size_bits(fires.size), fires.place)
        entries = np.flatnonzero(key > self.top.lowest[fires.latent])
        latent, block = fires.latent[entries], fires.block[entries]
        order = np.lexsort((~key[entries], block, latent))
        new = (np.diff(latent[order], prepend=-1) != 0) | (np.diff(block[order], prepend=-1) != 0)
        self._offer(self.top, fires, entries[order[new]], key)

    def _offer_drawn(self, fires: Fires) -> None:
        """A uniform sample of all firings."""
        key = keys(random_bits(fires.latent, fires.place, self.settings.seed), fires.place)
        self._offer(self.drawn, fires, np.flatnonzero(key > self.drawn.lowest[fires.latent]), key)

    def _offer(self, best: Best, fires: Fires, entries: np.ndarray, key: np.ndarray) -> None:
        before, after = self.settings.before, self.settings.after
        best.offer(
            fires.latent[entries], key[entries], lambda chosen: fires.windows(entries[chosen], before, after)
        )  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Everything, for `restore`."""
        found = {"error": np.array(self.error)}
        for name in ("numbers", "top", "drawn", "pairs", "sample"):
            found |= {f"{name}/{key}": value for key, value in getattr(self, name).state().items()}
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.error = float(state["error"])
        for name in ("numbers", "top", "drawn", "pairs", "sample"):
            prefix = f"{name}/"
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            getattr(self, name).restore(part)


def _widened(column: Tensor, width: int) -> Tensor:
    """Zeros behind the columns of codes that are fewer."""
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))
