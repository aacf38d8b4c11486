"""The best few firings of every latent by some number, with the text around them: a heap a latent, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def keys(number: np.ndarray, place: np.ndarray) -> np.ndarray:
    """By which firings are ranked: the higher number first, then the earlier place; uint64, distinct in a latent.

    Args:
        number: uint32, not 0.
        place: where in the text, below 2^32 - 1.
    """
    return (number.astype(np.uint64) << _HALF) | (_LOW - place.astype(np.uint64))


def size_bits(size: np.ndarray) -> np.ndarray:
    """Positive float32 as whole numbers of the same order, uint32."""
    return np.ascontiguousarray(size, dtype=np.float32).view(np.uint32)


def random_bits(latent: np.ndarray, place: np.ndarray, seed: int) -> np.ndarray:
    """A number drawn for each (latent, place), uint32 and not 0: SplitMix64's last steps, so that no state is kept and
    the order of reading does not count."""
    with np.errstate(over="ignore"):
        z = latent.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + place.astype(np.uint64)
        z += np.uint64(seed & 0xFFFFFFFF) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> _HALF) | np.uint64(1)).astype(np.uint32)


class Best:
    """The `slots` firings of highest key of each latent, with windows; in no order.

    Args:
        n_latents: rows.
        slots: firings kept of a latent.
        window: tokens of a window.
    """

    def __init__(self, n_latents: int, slots: int, window: int) -> None:
        self.keys = np.zeros((n_latents, slots), dtype=np.uint64)
        """0 where there is none."""
        self.windows = np.zeros((n_latents, slots, window), dtype=np.float32)
        self.lowest = np.zeros(n_latents, dtype=np.uint64)
        """The key that one must be above to enter."""

    def offer(self, latent: np.ndarray, key: np.ndarray, windows: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take those firings that belong among the best.

        Args:
            latent: rising, [firings].
            key: [firings], each above `lowest` of its latent.
            windows: makes the windows of some of the firings, by their numbers here.
        """
        if not len(latent):
            return
        slots = self.keys.shape[1]
        order = np.lexsort((~key, latent))
        rows, begin, counts = np.unique(latent[order], return_index=True, return_counts=True)
        within = np.arange(len(order)) - np.repeat(begin, counts)
        order = order[within < slots]
        row = np.searchsorted(rows, latent[order])
        every = np.concatenate([np.repeat(np.arange(len(rows)), slots), row])
        both = np.concatenate([self.keys[rows].ravel(), key[order]])
        ranked = np.lexsort((~both, every))
        begin = np.searchsorted(every[ranked], np.arange(len(rows)))
        kept = np.empty(len(both), dtype=bool)
        kept[ranked] = np.arange(len(ranked)) - begin[every[ranked]] < slots
        # Every row keeps `slots` of them: as many leave as enter.
        left, slot = np.nonzero(~kept[: len(rows) * slots].reshape(len(rows), slots))
        entering = order[kept[len(rows) * slots :]]
        self.keys[rows[left], slot] = key[entering]
        self.windows[rows[left], slot] = windows(entering)
        self.lowest[rows] = self.keys[rows].min(1)

    def places(self) -> np.ndarray:
        """Where each is, int64 [n_latents, slots]; -1: none."""
        place = (_LOW - (self.keys & _LOW)).astype(np.int64)
        place[self.keys == 0] = -1
        return place

    def state(self) -> dict[str, np.ndarray]:
        """For `restore`."""
        return {"keys": self.keys, "windows": self.windows}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self.keys, self.windows = state["keys"], state["windows"]
        self.lowest = self.keys.min(1)
