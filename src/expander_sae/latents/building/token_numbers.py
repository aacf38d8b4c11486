"""What follows from how often each latent fires on each token: entropy, how specific it is, its top tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PRIOR = 8.0
"""Firings at chance that are added to those seen."""


class TokenNumbers(NamedTuple):
    """Of every latent."""

    entropy: np.ndarray
    """Bits, float64 [n_latents]; NaN: it never fired."""
    specific: np.ndarray
    """Bits, float64 [n_latents]."""
    top: dict[str, np.ndarray]
    """latent, rank, token, firings and mean, each [entries], by latent and rank."""


def token_numbers(parts: Iterable[np.ndarray], firings: np.ndarray, base: np.ndarray, count: int) -> TokenNumbers:
    """With c_t the firings on token t out of c, and b_t the share of t among all tokens read:

        entropy  = -sum_t (c_t / c) log2(c_t / c)
        specific = max(0, sum_t (c_t / c) log2(p_t / b_t)),   p_t = (c_t - 1 + 8 b_t) / (c - 1 + 8)

    The second says how many bits better the token of a firing is guessed from the latent's other firings, with eight at
    chance added, than from the text. Without leaving the firing itself out, a latent that fires on many rare tokens,
    once on each, would be the most specific of all.

    Args:
        parts: pairs (`PAIR`) rising by key, all of a latent in one part.
        firings: c, int64 [n_latents].
        base: tokens read of each id, int64.
        count: top tokens of a latent at most; of equally frequent ones, the lower id first.
    """
    n = len(firings)
    entropy = np.where(firings > 0, 0.0, np.nan)
    specific = np.zeros(n)
    share = base / base.sum()
    top: list[dict[str, np.ndarray]] = []
    for part in parts:
        latent = (part["key"] >> np.uint64(32)).astype(np.int64)
        token = (part["key"] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        seen, c = part["count"].astype(np.float64), firings[latent].astype(np.float64)
        latents, begin = np.unique(latent, return_index=True)
        p = seen / c
        entropy[latents] = np.abs(np.add.reduceat(-p * np.log2(p), begin))  # never -0.0
        chance = share[token]
        others = (seen - 1 + PRIOR * chance) / (c - 1 + PRIOR)
        specific[latents] = np.maximum(np.add.reduceat(p * np.log2(others / chance), begin), 0.0)
        order = np.lexsort((token, -seen, latent))
        rank = np.arange(len(order)) - np.repeat(begin, np.diff(begin, append=len(order)))
        order, rank = order[rank < count], rank[rank < count]
        top.append(
            {
                "latent": latent[order],
                "rank": rank,
                "token": token[order],
                "firings": part["count"][order].astype(np.int64),
                "mean": part["total"][order] / part["count"][order],
            }
        )
    names = ("latent", "rank", "token", "firings", "mean")
    none = np.empty(0, dtype=np.int64)
    return TokenNumbers(entropy, specific, {name: np.concatenate([none, *(t[name] for t in top)]) for name in names})
