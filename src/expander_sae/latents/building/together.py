"""A uniform sample of tokens with the latents that fire on them, and which latents fire together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from .best import random_bits
from .fires import Fires

PAIRS = 1 << 24
"""(latent, latent) pairs that are counted at most."""
TOKENS = 1 << 16
"""Tokens of the sample at most."""


class Sample:
    """The tokens of smallest random number, with what fires on them.

    Args:
        tokens: at most.
        seed: of the draw.
    """

    def __init__(self, tokens: int = TOKENS, *, seed: int = 0) -> None:
        self.tokens, self.seed = tokens, seed
        self._pieces: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0
        self._below = np.uint32(0xFFFFFFFF)

    def add(self, fires: Fires) -> None:
        """The firings of a piece of text."""
        drawn = self._drawn(fires.place) <= self._below
        self._pieces.append((fires.place[drawn], fires.latent[drawn]))
        self._held += len(np.unique(self._pieces[-1][0]))
        if self._held > 2 * self.tokens:
            self._pieces = [self._smallest()]
            self._held = self.tokens

    def _smallest(self) -> tuple[np.ndarray, np.ndarray]:
        """Places and latents of the firings of the sample."""
        none = np.empty(0, dtype=np.int64)
        place, latent = (np.concatenate([none, *(piece[i] for piece in self._pieces)]) for i in (0, 1))
        places = np.unique(place)
        if len(places) > self.tokens:
            self._below = np.partition(self._drawn(places), self.tokens - 1)[self.tokens - 1]
            kept = self._drawn(place) <= self._below
            place, latent = place[kept], latent[kept]
        return place, latent

    def _drawn(self, place: np.ndarray) -> np.ndarray:
        return random_bits(np.full(len(place), 0x70CE, dtype=np.uint64), place, self.seed)

    def fired(self, pairs: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, numbered, and latents of the firings: of as many tokens, those drawn first, as have so many pairs."""
        place, latent = self._smallest()
        places, token, counts = np.unique(place, return_inverse=True, return_counts=True)
        order = np.argsort(self._drawn(places), kind="stable")
        enough = np.searchsorted(np.cumsum(counts[order].astype(np.int64) ** 2), pairs, side="right")
        number = np.full(len(places), -1)
        number[order[: max(1, enough)]] = np.arange(min(max(1, enough), len(places)))
        kept = number[token] >= 0
        return number[token][kept], latent[kept]

    def state(self) -> dict[str, np.ndarray]:
        """For `restore`."""
        place, latent = self._smallest()
        return {"place": place, "latent": latent, "below": np.array(self._below), "held": np.array(self._held)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self._pieces = [(state["place"], state["latent"])]
        self._below, self._held = np.uint32(state["below"]), int(state["held"])


def together(
    token: np.ndarray, latent: np.ndarray, n_latents: int, count: int, *, at_once: int = 1 << 20
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each latent those that fire on the same tokens most: latents [rows], others [rows, count], -1 for none, and

        n_ij / sqrt(n_i n_j),   n_ij: tokens on which both fire, two at least.

    Args:
        token: of each firing, whole numbers from 0.
        latent: of each firing.
        n_latents: in all.
        count: others of a latent at most.
        at_once: pairs that are held.
    """
    alone = np.bincount(latent, minlength=n_latents)
    by_token = np.argsort(token, kind="stable")
    members = latent[by_token]
    sizes = np.bincount(token)
    starts = np.cumsum(sizes) - sizes
    by_latent = np.argsort(latent, kind="stable")
    token, latent = token[by_latent], latent[by_latent]
    begin = np.searchsorted(latent, np.arange(n_latents + 1))
    before = np.concatenate([[0], np.cumsum(sizes[token])])[begin]  # pairs of the latents before each
    cuts = [0]
    while cuts[-1] < n_latents:
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(before, before[cuts[-1]] + at_once, side="right")) - 1))
    for low, high in pairwise(cuts):
        mine = slice(begin[low], begin[high])
        partners = sizes[token[mine]]
        row = np.repeat(np.arange(len(partners)), partners)
        within = np.arange(len(row)) - np.repeat(np.cumsum(partners) - partners, partners)
        pair = (latent[mine][row] - low) * n_latents + members[starts[token[mine]][row] + within]
        found, both = _counted(pair, (high - low) * n_latents)
        one, other = found // n_latents + low, found % n_latents
        kept = (one != other) & (both > 1)
        one, other, both = one[kept], other[kept], both[kept]
        value = both / np.sqrt(alone[one].astype(np.float64) * alone[other])
        order = np.lexsort((other, -value, one))
        rank = np.arange(len(one)) - np.searchsorted(one[order], one[order])
        order, rank = order[rank < count], rank[rank < count]
        others = np.full((high - low, count), -1)
        values = np.zeros((high - low, count))
        others[one[order] - low, rank], values[one[order] - low, rank] = other[order], value[order]
        yield np.arange(low, high), others, values


def _counted(pairs: np.ndarray, possible: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones, rising, and how often each occurs: by counting where they are dense, else by sorting."""
    if possible <= 16 * len(pairs):
        counts = np.bincount(pairs, minlength=possible)
        found = np.flatnonzero(counts)
        return found, counts[found]
    return np.unique(pairs, return_counts=True)
