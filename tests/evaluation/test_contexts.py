"""Detection finds latents that are about something, and only those."""

import math

import pytest
import torch

from expander_sae.evaluation.contexts import ContextEmbedding, _auc, detection
from expander_sae.evaluation.firing import Firings
from expander_sae.records import ExpanderSaeError


def text(tokens=4000, words=50, block=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(words, (tokens,), generator=draw), torch.arange(tokens) // block


def firing_where(*conditions):
    """One latent for each boolean [tokens]."""
    table = torch.stack([condition.float() for condition in conditions], 1)
    token, latent = table.nonzero(as_tuple=True)
    return Firings(token, latent, table[token, latent], *table.shape)


def test_latents_of_words_are_told_from_random_ones():
    ids, blocks = text()
    draw = torch.Generator().manual_seed(1)
    after_a_word = torch.zeros(len(ids), dtype=torch.bool)
    after_a_word[1:] = (ids[:-1] == 4) & (blocks[1:] == blocks[:-1])
    found = firing_where(
        ids == 3, (ids == 3) | (ids == 7), after_a_word, torch.rand(len(ids), generator=draw) < 0.05,
        torch.arange(len(ids)) == 0,
    )  # fmt: skip
    scores = detection(found, ContextEmbedding(ids, blocks), blocks, latents=torch.arange(5), examples=30)
    aucs = {score.latent: score.auc for score in scores}
    assert set(aucs) == {0, 1, 2, 3}  # the last fires too seldom to be asked about
    assert aucs[0] > 0.99
    assert aucs[1] > 0.95
    assert aucs[2] > 0.9
    assert 0.25 < aucs[3] < 0.75


def test_examples_and_questions_come_from_different_blocks():
    ids, blocks = text()
    seen = []

    class Listener:
        def scores(self, examples, counterexamples, candidates):
            seen.append((examples, counterexamples, candidates))
            return torch.zeros(len(candidates))

    found = firing_where(ids == 3)
    (score,) = detection(found, Listener(), blocks, latents=torch.tensor([0]))
    examples, counter, candidates = seen[0]
    assert not set(blocks[torch.cat([examples, counter])].tolist()) & set(blocks[candidates].tolist())
    assert bool((ids[examples] == 3).all())
    assert not bool((ids[counter] == 3).any())
    assert score.auc == 0.5  # equal scores tell nothing
    with pytest.raises(ExpanderSaeError, match="two blocks"):
        detection(found, Listener(), torch.zeros_like(blocks), latents=torch.tensor([0]))


def test_contexts_stop_at_the_blocks_edge():
    ids, blocks = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])
    vectors = ContextEmbedding(ids, blocks, width=2).vectors(torch.tensor([1, 2])).to_dense()
    assert vectors[0].nonzero()[:, 0].tolist() == [1, 4]  # itself, and 0 before it
    assert vectors[1].nonzero()[:, 0].tolist() == [2, 11]  # itself, and 3 after it
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_auc():
    assert _auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.0])) == 1.0
    assert _auc(torch.tensor([1.0]), torch.tensor([1.0, 0.0])) == 0.75
    assert math.isnan(_auc(torch.tensor([]), torch.tensor([1.0])))
