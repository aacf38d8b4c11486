"""Worlds keep what their settings say, and what is known to be right is scored as right."""

import numpy as np
import pytest
import torch

from expander_sae.evaluation.meaning.worlds import World, WorldSettings, recovery
from expander_sae.pursuit import OMP, Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae

FEW = WorldSettings(d_in=48, n_features=60, roots=0, most=0.1, least=0.02, rank=2, seed=3)
"""Features that fire by themselves, a few at a time."""
TREES = WorldSettings(d_in=32, n_features=120, roots=2, branching=3, depth=2, most=0.5, least=0.02, seed=1)


@pytest.fixture(scope="module")
def few():
    world = World(FEW)
    return world, world.sample(4000, seed=0)


@pytest.mark.parametrize("degree", [None, 5])
def test_the_true_dictionary_is_found_again(degree):
    world = World(WorldSettings(**{**FEW.to_dict(), "degree": degree}))
    sample = world.sample(2000, seed=0)
    found = recovery(world.dictionary(np.arange(60), k=16, reading=OMP(tolerance=1e-4)), world, sample)
    assert found.mcc == pytest.approx(1.0, abs=1e-6)
    assert found.recovered == found.uniqueness == 1.0
    assert found.f1 > 0.97
    assert found.feature_f1 > 0.97
    assert found.explained_variance > 0.99
    assert found.l0 == pytest.approx(found.true_l0, rel=0.05)
    assert found.dead == 0


def test_what_is_missing_or_doubled_is_counted(few):
    world, sample = few
    half = recovery(world.dictionary(np.arange(30), k=8, reading=OMP()), world, sample)
    assert half.mcc == pytest.approx(1.0, abs=1e-6)  # over the pairs there are
    assert half.recovered == 0.5
    assert half.feature_f1 < 0.55
    assert half.explained_variance < 0.9
    doubled = world.dictionary(np.repeat(np.arange(30), 2), k=8, reading=Encoder())
    found = recovery(doubled, world, sample)
    assert found.uniqueness == pytest.approx(0.5, abs=0.05)
    assert found.recovered == 0.5
    random = recovery(DenseTopKSae(d_in=48, n_latents=60, k=8).eval(), world, sample)
    assert random.mcc < 0.6
    assert random.recovered == 0
    assert random.feature_f1 < 0.4


def test_f1_is_counted_right():
    """One feature, one latent on its direction that fires where the activation is above its bias."""
    world = World(WorldSettings(d_in=4, n_features=1, roots=0, most=0.5, least=0.5, rank=1, correlation=0.0))
    sample = world.sample(1000, seed=0)
    fires = np.asarray(sample.truth.values.todense()).ravel() > 0
    sae = DenseTopKSae(d_in=4, n_latents=2, k=1, latent_bias=True).eval()
    with torch.no_grad():
        sae.columns.raw.copy_(torch.stack([world.directions[0], -world.directions[0]]))
        sae.b_dec.copy_(world.bias)
        sae.b_enc.fill_(-5.0)
    strong = np.asarray(sample.truth.values.todense()).ravel() > 5.0
    wanted = 2 * strong.sum() / (strong.sum() + fires.sum())
    found = recovery(sae, world, sample)
    assert 0.3 < wanted < 0.9
    assert found.feature_f1 == pytest.approx(wanted)
    assert found.f1 == pytest.approx(wanted / 2)  # the other latent never fires
    assert found.dead == 0.5
    assert found.uniqueness == 1.0


def test_tokens_are_mixtures_of_the_directions(few):
    world, (x, truth) = few
    rebuilt = truth.values @ world.directions.double().numpy() + world.bias.double().numpy()
    assert np.abs(rebuilt - x.numpy()).max() < 1e-4
    assert truth.values.data.min() > 0
    assert world.directions.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    # Where nothing stands in between, features fire as often as asked.
    assert truth.density() == pytest.approx(world.probability, abs=0.03)
    assert world.sample(50, seed=0).x.equal(world.sample(50, seed=0).x)
    assert not world.sample(50, seed=0).x.equal(world.sample(50, seed=1).x)
    assert not World(TREES).directions.equal(World(WorldSettings(**{**TREES.to_dict(), "seed": 2})).directions)


def test_directions_of_a_sparse_world_are_sparse_and_pushed_apart():
    settings = WorldSettings(**{**FEW.to_dict(), "n_features": 200, "degree": 6})
    directions = World(settings).directions
    assert (directions != 0).sum(1).tolist() == [6] * 200
    assert len({tuple(row.nonzero().ravel().tolist()) for row in directions}) > 190


def test_children_fire_with_their_parent_and_one_at_a_time():
    world = World(TREES)
    active = world.sample(3000, seed=0).truth.values.toarray()
    assert TREES.in_trees() == 2 + 6 + 18
    assert active[:, 8:].any()
    for first, many in ((2, 6), (8, 18)):
        parents = (np.arange(many) // 3) + (0 if first == 2 else 2)
        mine = active[:, first : first + many] > 0
        assert mine.any(0).all()
        assert not (mine & (active[:, parents] == 0)).any()
        assert mine.reshape(3000, -1, 3).sum(2).max() == 1
    # A child is stronger where its parent is.
    both = (active[:, 0] > 0) & (active[:, 2] > 0)
    assert np.corrcoef(active[both, 0], active[both, 2])[0, 1] > 0.3


def test_hidden_factors_make_features_fire_together():
    bound = WorldSettings(d_in=16, n_features=20, roots=0, most=0.3, least=0.3, rank=1, correlation=0.9, seed=0)
    world = World(bound)
    fires = (world.sample(4000, seed=0).truth.values.toarray() > 0).astype(float)
    together = np.corrcoef(fires.T)[np.triu_indices(20, 1)]
    wanted = (world.loadings @ world.loadings.T).numpy()[np.triu_indices(20, 1)]
    assert np.corrcoef(together, wanted)[0, 1] > 0.95
    assert fires.mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_features": 50}, "n_features of at least 680"),
        ({"least": 0.5}, "expected 0 < least <= most < 1"),
        ({"degree": 129}, "true directions from 1 to 128"),
        ({"correlation": 0.2}, "rank . correlation.2 < 1"),
    ],
)
def test_worlds_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ExpanderSaeError, match=message):
        WorldSettings(**wrong)
