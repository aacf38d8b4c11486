"""Counts, sums and histograms of every latent, added up piece by piece."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..writing import BINS
from .fires import Fires

_NONE = -1 << 14
_BITS = BINS.bit_length() - 1


class Numbers:
    """Sums over the firings of each latent: arrays [n_latents].

    A histogram has equal bins from 0 to a power of two above every |code| seen so far. When a larger one comes, the end
    doubles and neighbouring bins are joined, so that one pass is enough and the result does not depend on the order.
    """

    def __init__(self, n_latents: int) -> None:
        self.firings = np.zeros(n_latents, dtype=np.int64)
        self.total = np.zeros(n_latents)
        """Of |code|."""
        self.squares = np.zeros(n_latents)
        self.max = np.zeros(n_latents, dtype=np.float32)
        self.histogram = np.zeros((n_latents, BINS), dtype=np.uint32)
        self.exponent = np.full(n_latents, _NONE, dtype=np.int16)
        """The histogram ends at 2^exponent."""

    def add(self, fires: Fires) -> None:
        """The firings of a piece of text."""
        latents, begin = fires.groups
        if not len(latents):
            return
        size = fires.size.astype(np.float64)
        self.firings[latents] += np.diff(begin, append=len(size))
        self.total[latents] += np.add.reduceat(size, begin)
        self.squares[latents] += np.add.reduceat(size * size, begin)
        highest = np.maximum.reduceat(fires.size, begin)
        self.max[latents] = np.maximum(self.max[latents], highest)
        self._widen(latents, np.frexp(highest)[1])
        bins = np.ldexp(size, _BITS - self.exponent[fires.latent].astype(np.int64)).astype(np.int64)
        cells, counts = np.unique(fires.latent * BINS + bins, return_counts=True)
        self.histogram.reshape(-1)[cells] += counts.astype(np.uint32)

    def _widen(self, latents: np.ndarray, exponent: np.ndarray) -> None:
        """Let histograms end at 2^exponent at least."""
        old = self.exponent[latents].astype(np.int64)
        new = np.maximum(old, exponent)
        self.exponent[latents] = new
        doublings = np.where(old == _NONE, 0, new - old)
        for step in range(min(_BITS, int(doublings.max()))):  # after so many all is in the first bin
            rows = latents[doublings > step]
            halves = self.histogram[rows].reshape(len(rows), BINS // 2, 2).sum(2, dtype=np.uint32)
            self.histogram[rows, : BINS // 2] = halves
            self.histogram[rows, BINS // 2 :] = 0

    @property
    def top(self) -> np.ndarray:
        """Where histograms end; NaN where nothing fired."""
        return np.where(self.firings > 0, np.ldexp(1.0, self.exponent.astype(np.int64)), np.nan)

    def state(self) -> dict[str, np.ndarray]:
        """For `restore`."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        vars(self).update(state)
