"""Agreement of two SAEs against brute force, and on dictionaries whose answer is known."""

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from expander_sae.evaluation.meaning import Features, agreement, latent_features, match_directions, under_noise
from expander_sae.evaluation.meaning.stability import best_correlation, subspace_overlap
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae


def unit(count, d_in, seed):
    rows = torch.randn(count, d_in, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def features(table):
    return Features("made", sparse.csc_matrix(np.asarray(table, dtype=np.float64)))


@pytest.mark.parametrize(("n", "others"), [(4, 5), (5, 4), (4, 4)])
def test_pairs_are_the_best_of_all_one_to_one_pairs(n, others):
    mine, theirs = unit(n, 6, 0), unit(others, 6, 1)
    table = (mine @ theirs.T).abs().double().numpy()
    small, large = (table, others) if n <= others else (table.T, n)
    best = max(
        sum(small[i, p] for i, p in enumerate(order)) for order in itertools.permutations(range(large), len(small))
    )
    for at_once in (1, 2, 100):
        found = match_directions(mine, theirs, at_once=at_once)
        assert found.cosine.sum() == pytest.approx(best)
        assert found.cosine == pytest.approx(table[found.mine, found.theirs])
        assert len(set(found.mine)) == len(set(found.theirs)) == min(n, others)


def test_a_permuted_dictionary_is_the_same_dictionary():
    sae = DenseTopKSae(d_in=16, n_latents=40, k=4).eval()
    twin = DenseTopKSae(d_in=16, n_latents=40, k=4, seed=1).eval()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        twin.columns.raw.copy_(sae.columns.raw[order])
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(2))
    mine, theirs = latent_features("", sae, x), latent_features("", twin, x)
    found = agreement(sae, twin, mine, theirs, strongest=5)
    for value in (found.pw_mcc, found.pw_mcc_by_energy, found.correlation, found.correlation_by_energy, found.subspace):
        assert value == pytest.approx(1.0, abs=1e-5)
    assert found.subspace_by_chance == 5 / 16


def test_energy_weighs_what_the_codes_consist_of():
    """One strong latent that comes back among weak ones that do not."""
    sae, other = (DenseTopKSae(d_in=8, n_latents=8, k=2, seed=seed).eval() for seed in (0, 1))
    with torch.no_grad():
        sae.columns.raw.copy_(torch.eye(8))
        other.columns.raw.copy_(torch.eye(8))
        other.columns.raw[1:] = torch.nn.functional.pad(unit(7, 7, 3), (1, 0))
    draw = np.random.default_rng(0)
    codes, again = draw.random((50, 8)), draw.random((50, 8))
    codes[:, 0] *= 100
    again[:, 0] = codes[:, 0]
    found = agreement(sae, other, features(codes), features(again), strongest=1)
    assert found.pw_mcc < 0.95
    assert found.pw_mcc_by_energy > 0.999
    assert found.correlation < 0.8
    assert found.correlation_by_energy > 0.999
    assert found.subspace == pytest.approx(1.0)


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_best_correlation_is_numpys(memory):
    draw = np.random.default_rng(0)
    mine = draw.random((30, 6)) * (draw.random((30, 6)) < 0.4)
    theirs = draw.random((30, 9)) * (draw.random((30, 9)) < 0.4)
    mine[:, 2], theirs[:, 4] = 0, 0  # silent
    mine[:, 3] = 1.7  # the same on all tokens
    found = best_correlation(features(mine), features(theirs), memory=memory)
    for i in range(6):
        if i in (2, 3):
            assert np.isnan(found[i])
        else:
            wanted = max(abs(np.corrcoef(mine[:, i], theirs[:, j])[0, 1]) for j in range(9) if j != 4)
            assert found[i] == pytest.approx(wanted)


def test_overlap_of_spans():
    axes = torch.eye(6)
    mixed = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]]) @ axes[:3]
    assert subspace_overlap(axes[:3], mixed) == pytest.approx(1.0)
    assert subspace_overlap(axes[:3], axes[3:]) == pytest.approx(0.0)
    # Dependent rows are no dimensions.
    assert subspace_overlap(axes[[0, 0, 1]], axes[[0, 1]]) == pytest.approx(1.0)
    random = [subspace_overlap(unit(8, 64, seed), unit(8, 64, seed + 100)) for seed in range(40)]
    assert np.mean(random) == pytest.approx(8 / 64, rel=0.1)


def test_noise_leaves_axes_and_moves_codes_by_its_size():
    sae = DenseTopKSae(d_in=8, n_latents=8, k=2, reading=Encoder()).eval()
    with torch.no_grad():
        sae.columns.raw.copy_(torch.eye(8))
    x = torch.zeros(200, 8)
    x[:, 0], x[:, 1], x[:, 2] = 10.0, 1.0, 0.9
    small, large = under_noise(sae, [x[:50], x[50:]], [1e-6, 0.1])
    assert small["support_kept"] == small["energy_kept"] == 1.0
    assert small["output_change"] <= 1.0
    assert 0.5 <= large["support_kept"] < 1.0
    # The strong latent stays, so nearly all of the energy does.
    assert large["energy_kept"] > 100 / 101 - 1e-6
    assert large["code_change"] > small["code_change"]


def test_bad_input_is_refused():
    sae, wide = ExpanderSae(d_in=16, n_latents=32, degree=4, k=4), ExpanderSae(d_in=24, n_latents=32, degree=4, k=4)
    codes = features(np.eye(32))
    with pytest.raises(ExpanderSaeError, match="directions of one d_in; got 16 and 24"):
        agreement(sae, wide, codes, codes)
    with pytest.raises(ExpanderSaeError, match="codes of the same tokens; got 32 and 31"):
        agreement(sae, sae, codes, features(np.eye(32)[:31]))
    with pytest.raises(ExpanderSaeError, match="at least one of the strongest"):
        agreement(sae, sae, codes, codes, strongest=0)
