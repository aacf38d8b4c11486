"""When latents fire: rates, on which tokens, and which other SAE's latents fire together with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from .codes import TokenBatch


class Firings(NamedTuple):
    """Where the latents of one SAE fire: one entry for each (token, latent) whose code is not zero, by token."""

    token: Tensor
    """Number of the token in the order read, int64 [firings]."""
    latent: Tensor
    """int64 [firings]."""
    value: Tensor
    """The code, float32 [firings]."""
    n_tokens: int
    n_latents: int

    def counts(self) -> Tensor:
        """Tokens on which each latent fires, int64 [n_latents]."""
        return torch.bincount(self.latent, minlength=self.n_latents)


@torch.no_grad()
def firings(
    sae: AbstractSae, batches: Iterator[TokenBatch], max_tokens: int | None = None
) -> tuple[Firings, Tensor, Tensor]:
    """Encode every batch; return the firings, the token ids and the blocks of text they are in (both int64 [tokens]).

    Raises:
        ExpanderSaeError: there are no tokens.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    ids: list[Tensor] = []
    blocks: list[Tensor] = []
    done = 0
    for batch in batches:
        count = len(batch.x) if max_tokens is None else min(len(batch.x), max_tokens - done)
        if count <= 0:
            break
        codes = sae.encode(batch.x[:count].float())
        found.append(_entries(codes, done))
        ids.append(batch.token_id[:count].long())
        blocks.append(batch.block[:count].long())
        done += count
    if done == 0:
        raise ExpanderSaeError("expected at least one token to encode; got none")
    token, latent, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Firings(token, latent, value, done, sae.n_latents), torch.cat(ids), torch.cat(blocks)


def _entries(codes: Codes, first_token: int) -> tuple[Tensor, Tensor, Tensor]:
    fires = codes.values != 0
    token = torch.arange(len(codes.values), device="cpu")[:, None].expand_as(fires)[fires] + first_token
    return token, codes.indices[fires], codes.values[fires].float()


def token_entropy(found: Firings, token_ids: Tensor) -> Tensor:
    """Shannon entropy, in bits, of the token ids on which each latent fires: float64 [n_latents], NaN for a silent one.

        H_j = -sum_t p_jt log2 p_jt,   p_jt = firings of j on token id t / firings of j

    0 for a latent of one word; the largest it can be is log2 of its firings.
    """
    ids, size = torch.unique(token_ids, return_inverse=True)
    pairs = found.latent * len(ids) + size[found.token]
    unique, times = torch.unique(pairs, return_counts=True)
    latent = unique // len(ids)
    totals = found.counts().double()
    p = times.double() / totals[latent]
    entropy = torch.zeros(found.n_latents, dtype=torch.float64, device="cpu").index_add_(0, latent, -p * p.log2())
    return torch.where(totals > 0, entropy, math.nan)


def split_half(found: Firings, *, seed: int = 0) -> Tensor:
    """How steady firing rates are: min over max of a latent's firings on two random halves of the tokens.

    Float64 [n_latents], NaN where it never fires; 0 where it fires in one half only.
    """
    draw = torch.Generator().manual_seed(seed)
    half = torch.randperm(found.n_tokens, generator=draw, device="cpu") < found.n_tokens // 2
    inside = half[found.token]
    one = torch.bincount(found.latent[inside], minlength=found.n_latents).double()
    other = torch.bincount(found.latent[~inside], minlength=found.n_latents).double()
    most = torch.maximum(one, other)
    return torch.where(most > 0, torch.minimum(one, other) / most, math.nan)


def best_jaccard(mine: Firings, others: Firings, *, memory: int = 1 << 28) -> Tensor:
    """How well each latent's firing set A is matched by one of another SAE's: max_j |A ∩ B_j| / |A ∪ B_j|.

    Float64 [n_latents of `mine`], NaN where it never fires.

    Args:
        mine: the latents asked about.
        others: of another SAE on the same tokens.
        memory: bytes of the table of intersections held at once.

    Raises:
        ExpanderSaeError: the two were read on different numbers of tokens.
    """
    if mine.n_tokens != others.n_tokens:
        raise ExpanderSaeError(
            f"expected firings on the same tokens; got {mine.n_tokens:,} and {others.n_tokens:,} of them"
        )
    n = others.n_latents
    starts = torch.zeros(others.n_tokens + 1, dtype=torch.int64, device="cpu")
    starts[1:] = torch.bincount(others.token, minlength=others.n_tokens).cumsum(0)
    counts, other_counts = mine.counts(), others.counts()
    by_latent = mine.latent.sort(stable=True).indices
    token, latent = mine.token[by_latent], mine.latent[by_latent]
    best = torch.full((mine.n_latents,), math.nan, dtype=torch.float64, device="cpu")
    step = max(1, memory // (16 * n))  # int64 counts, and as much again for the ratios
    for first in range(0, mine.n_latents, step):
        last = min(first + step, mine.n_latents)
        low, high = (int(torch.searchsorted(latent, place)) for place in (first, last))
        chosen = slice(low, high)
        table = _intersections(token[chosen], latent[chosen] - first, starts, others.latent, last - first, n).double()
        union = counts[first:last, None] + other_counts[None] - table
        best[first:last] = (table / union.clamp_min(1)).amax(1)
    return torch.where(counts > 0, best, math.nan)


def _intersections(token: Tensor, latent: Tensor, starts: Tensor, others: Tensor, latents: int, n: int) -> Tensor:
    """Tokens on which latent i and other latent j both fire, int64 [latents, n], from the firings of these latents."""
    partners = starts[token + 1] - starts[token]
    rows = torch.repeat_interleave(torch.arange(len(token), device="cpu"), partners)
    within = torch.arange(len(rows), device="cpu") - torch.repeat_interleave(partners.cumsum(0) - partners, partners)
    pairs = latent[rows] * n + others[starts[token[rows]] + within]
    return torch.bincount(pairs, minlength=latents * n).view(latents, n)
