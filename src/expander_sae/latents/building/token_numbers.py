"""What follows from how often each latent fires on each token: entropy, how specific it is, its top tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PRIOR = 8.0
"""Firings at chance that are added to those seen: a latent that fired once is not the most specific of all."""


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
        specific = sum_t p_t log2(p_t / b_t),   p_t = (c_t + 8 b_t) / (c + 8)

    The second is the Kullback-Leibler divergence, over all tokens t, of where the latent fires from the text itself,
    with eight firings at chance added.

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
        b = share[token]
        p = (seen + PRIOR * b) / (c + PRIOR)
        fired = np.add.reduceat(p * np.log2(p / b), begin)
        # On every other token p is 8 b / (c + 8).
        rest = PRIOR / (firings[latents] + PRIOR)
        others = np.maximum(1.0 - np.add.reduceat(b, begin), 0.0)
        specific[latents] = np.maximum(fired + rest * others * np.log2(rest), 0.0)
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
