"""Firing sets, entropy and novelty against brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.evaluation.codes import TokenBatch
from expander_sae.evaluation.features import best_cosine, dense_columns
from expander_sae.evaluation.firing import Firings, best_jaccard, firings, split_half, token_entropy
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae


def made(table):
    """Firings of a table [tokens, latents] of codes."""
    token, latent = table.nonzero(as_tuple=True)
    return Firings(token, latent, table[token, latent], *table.shape)


@settings(max_examples=12)
@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 9), st.integers(0, 10**6))
def test_best_jaccard_is_the_definitions(tokens, mine, theirs, seed):
    draw = torch.Generator().manual_seed(seed)
    a = (torch.rand(tokens, mine, generator=draw) < 0.4).float()
    b = (torch.rand(tokens, theirs, generator=draw) < 0.4).float()
    for memory in (1, 1 << 20):
        found = best_jaccard(made(a), made(b), memory=memory)
        for i in range(mine):
            one = set(a[:, i].nonzero()[:, 0].tolist())
            sets = [set(b[:, j].nonzero()[:, 0].tolist()) for j in range(theirs)]
            if not one:
                assert math.isnan(found[i])
            else:
                assert float(found[i]) == pytest.approx(max(len(one & s) / len(one | s) for s in sets))


def test_an_saes_latents_are_not_novel_to_itself():
    table = (torch.rand(50, 8) < 0.3).float()
    found = best_jaccard(made(table), made(table))
    assert bool((found[made(table).counts() > 0] == 1).all())
    with pytest.raises(ExpanderSaeError, match="same tokens"):
        best_jaccard(made(table), made(table[:-1]))


def test_entropy_in_bits():
    ids = torch.tensor([7, 7, 9, 9, 3, 3, 3, 3])
    table = torch.zeros(8, 4)
    table[:2, 0] = 1.0  # one word
    table[:4, 1] = -2.0  # two words, evenly
    table[:, 2] = 0.5  # 1/4, 1/4, 1/2
    assert token_entropy(made(table), ids).nan_to_num(-1).tolist() == [0.0, 1.0, 1.5, -1.0]


def test_split_halves():
    table = torch.zeros(1000, 3)
    table[:, 0] = 1.0
    table[0, 1] = 1.0
    halves = split_half(made(table))
    assert halves[0] == 1.0
    assert halves[1] == 0.0
    assert math.isnan(halves[2])


def test_firings_are_the_non_zero_codes():
    sae = ExpanderSae(d_in=16, n_latents=32, degree=3, k=4, reading=Encoder())
    x = torch.randn(30, 16)
    batches = [
        TokenBatch(part, *(torch.arange(len(part), dtype=torch.int32) for _ in range(3))) for part in x.split(12)
    ]
    found, ids, blocks = firings(sae, iter(batches), max_tokens=25)
    codes = sae.encode(x[:25])
    table = torch.zeros(25, 32).scatter_(1, codes.indices, codes.values)
    again = torch.zeros(25, 32)
    again[found.token, found.latent] = found.value
    assert torch.equal(again, table)
    assert (len(ids), len(blocks), found.n_tokens) == (25, 25, 25)
    assert torch.equal(found.counts(), (table != 0).sum(0))
    with pytest.raises(ExpanderSaeError, match="at least one token"):
        firings(sae, iter([]))


def test_best_cosine_is_the_definitions():
    sparse, dense = (
        ExpanderSae(d_in=16, n_latents=40, degree=3, k=4, reading=Encoder()),
        DenseTopKSae(d_in=16, n_latents=24, k=4),
    )
    found = best_cosine(sparse, dense, at_once=7)
    w = torch.zeros(40, 16).scatter_(1, sparse.rows.long(), sparse.values.detach())
    assert torch.equal(dense_columns(sparse), w)
    assert torch.allclose(found, (w @ dense.values.detach().T).abs().amax(1))
    assert torch.allclose(best_cosine(dense, dense), torch.ones(24))
    with pytest.raises(ExpanderSaeError, match="one d_in"):
        best_cosine(sparse, DenseTopKSae(d_in=8, n_latents=24, k=4))
