"""Is a latent about something? Tell its held-out contexts from others by the contexts seen so far.

Detection in the manner of automatic interpretability (an explanation is good if it tells which new contexts fire), with
a text embedding in the place of a language model: it runs offline, costs milliseconds a latent, and measures how well
the *words around* predict a firing. A latent that follows syntax, position or distant text scores low and need not be
meaningless; compare scores between SAEs on the same tokens, and with the chance level.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError

from .firing import Firings


class Judge(Protocol):
    """Says how well contexts go with examples; the offline embedding below is one, a language model can be another."""

    @own_precision
    def scores(self, examples: Tensor, counterexamples: Tensor, candidates: Tensor) -> Tensor:
        """One number for each candidate [candidates], larger where the latent should fire.

        All arguments are positions in the text that was read, int64 [tokens]: places where the latent fires, where it
        does not, and where it is asked about.
        """
        ...


class Detection(NamedTuple):
    """How well one latent's held-out contexts were told from others."""

    latent: int
    auc: float
    """Chance that a context where it fires is scored above one where it does not; 0.5 is chance."""
    firings: int


class ContextEmbedding:
    """TF-IDF vectors of the words around each token, compared by cosine with those of the examples.

    A context is the token itself (counted `own` times) and `width` tokens to each side within its block of text, those
    before it apart from those after it; weights log(1 + n_tokens / occurrences); unit length.

    Args:
        token_ids: int64 [tokens], in the order they were read.
        blocks: the block of text of each, int64 [tokens].
        width: tokens to each side.
        own: weight of the token itself against one neighbour.
    """

    def __init__(self, token_ids: Tensor, blocks: Tensor, *, width: int = 4, own: float = 3.0) -> None:
        ids, self.word = torch.unique(token_ids, return_inverse=True)
        self.blocks, self.width, self.own, self.words = blocks, width, own, len(ids)
        self.rarity = torch.log1p(len(token_ids) / torch.bincount(self.word, minlength=len(ids)).double())

    def vectors(self, positions: Tensor) -> Tensor:
        """Unit vectors of the contexts at these positions, sparse float64 [positions, 3 words]."""
        count = len(positions)
        rows, columns, weights = [], [], []
        for shift in range(-self.width, self.width + 1):
            there = positions + shift
            inside = (there >= 0) & (there < len(self.word))
            there = there.clamp(0, len(self.word) - 1)
            inside &= self.blocks[there] == self.blocks[positions]
            part = 0 if shift == 0 else (1 if shift < 0 else 2)
            word = self.word[there][inside]
            rows.append(torch.arange(count, device="cpu")[inside])
            columns.append(word + part * self.words)
            weights.append(self.rarity[word] * (self.own if shift == 0 else 1.0))
        index = torch.stack([torch.cat(rows), torch.cat(columns)])
        found = torch.sparse_coo_tensor(
            index, torch.cat(weights), (count, 3 * self.words), device="cpu", check_invariants=False
        )
        found = found.coalesce()
        norm = torch.zeros(count, dtype=torch.float64, device="cpu").index_add_(
            0, found.indices()[0], found.values().square()
        )
        values = found.values() / norm.sqrt()[found.indices()[0]]
        return torch.sparse_coo_tensor(
            found.indices(), values, found.shape, device="cpu", check_invariants=False
        ).coalesce()

    def scores(self, examples: Tensor, counterexamples: Tensor, candidates: Tensor) -> Tensor:
        """<candidate, mean example - mean counterexample>."""
        direction = self._mean(examples) - self._mean(counterexamples)
        return torch.sparse.mm(self.vectors(candidates), direction[:, None])[:, 0]

    def _mean(self, positions: Tensor) -> Tensor:
        return torch.sparse.sum(self.vectors(positions), 0).to_dense() / max(1, len(positions))


def evenly_over_rates(found: Firings, wanted: int, seed: int) -> Tensor:
    """Latents that fire eight times at least, as many of each quarter by firing rate."""
    counts = found.counts()
    usable = (counts >= 8).nonzero()[:, 0]
    usable = usable[counts[usable].argsort(stable=True)]
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for quarter in torch.tensor_split(usable, 4):
        order = torch.randperm(len(quarter), generator=draw, device="cpu")
        parts.append(quarter[order[: -(-wanted // 4)]])
    return torch.cat(parts)


def detection(
    found: Firings, judge: Judge, blocks: Tensor, *, latents: Tensor, examples: int = 15, seed: int = 0
) -> list[Detection]:
    """Score latents: examples from one half of the text, contexts to tell apart from the other half.

    The text is halved by blocks, so that no context is near an example. A latent's examples are its `examples`
    strongest firings in the first half; asked about are as many of its firings in the second half, drawn evenly over
    their strengths (strong firings alone would flatter), and twice as many tokens on which it does not fire. Latents
    with fewer than four firings in a half are left out.

    Raises:
        ExpanderSaeError: there are fewer than two blocks of text.
    """
    names = torch.unique(blocks)
    if len(names) < 2:
        raise ExpanderSaeError(
            "expected at least two blocks of text, to find examples in one half and ask in the other; got fewer"
        )
    draw = torch.Generator().manual_seed(seed)
    shuffled = names[torch.randperm(len(names), generator=draw, device="cpu")]
    first_half = torch.isin(blocks, shuffled[: len(names) // 2])
    results = []
    by_latent = found.latent.sort(stable=True).indices
    edges = torch.zeros(found.n_latents + 1, dtype=torch.int64, device="cpu")
    edges[1:] = found.counts().cumsum(0)
    for latent in latents.tolist():
        mine = by_latent[edges[latent] : edges[latent + 1]]
        token, strength = found.token[mine], found.value[mine].abs()
        learned, asked = first_half[token], ~first_half[token]
        if int(learned.sum()) < 4 or int(asked.sum()) < 4:
            continue
        best = token[learned][strength[learned].argsort(descending=True, stable=True)][:examples]
        ordered = token[asked][strength[asked].argsort(descending=True, stable=True)]
        wanted = min(examples, len(ordered))
        positive = ordered[torch.arange(wanted, device="cpu") * len(ordered) // wanted]
        silent = torch.ones(found.n_tokens, dtype=torch.bool, device="cpu")
        silent[token] = False
        counter = _drawn(silent & first_half, 2 * examples, draw)
        negative = _drawn(silent & ~first_half, 2 * wanted, draw)
        scores = judge.scores(best, counter, torch.cat([positive, negative]))
        auc = _auc(scores[: len(positive)], scores[len(positive) :])
        results.append(Detection(latent, auc, len(token)))
    return results


def _drawn(allowed: Tensor, count: int, draw: torch.Generator) -> Tensor:
    places = allowed.nonzero()[:, 0]
    return places[torch.randint(len(places), (count,), generator=draw, device="cpu")] if len(places) else places


def _auc(positive: Tensor, negative: Tensor) -> float:
    """Chance that a positive is scored above a negative, ties counting half; NaN where there are none of one kind."""
    if len(positive) == 0 or len(negative) == 0:
        return math.nan
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())
