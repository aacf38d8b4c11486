"""Overlaps, expansion and probability bounds against enumeration."""

import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.graphs.adversary import _exchange, find_bad_expansion, find_stopping_set
from expander_sae.graphs.expansion import (
    core_size,
    expansion_loss_bound,
    is_stopping_set,
    row_members,
    spectral_expansion,
    unpeeled,
)
from expander_sae.graphs.overlap import overlap_cost, overlap_profile, overlap_sums
from expander_sae.graphs.packing import packing_bound, smallest_possible_overlap
from expander_sae.graphs.random_masks import (
    expansion_size,
    hall_size,
    neighbour_log_law,
    stopping_size,
)
from expander_sae.records import ExpanderSaeError

sys.path.insert(0, str(Path(__file__).parents[1] / "theory"))
import small_dictionaries as small


@pytest.mark.parametrize("seed", range(40))
def test_overlap_profile_is_what_enumeration_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    counted = small.overlaps(mask)
    profile = overlap_profile(mask, p_max=6)
    upper = counted[np.triu_indices(mask.n_latents, 1)]
    assert profile.exact
    assert profile.pairs.tolist() == np.bincount(upper, minlength=mask.degree + 1).tolist()
    assert profile.largest == upper.max() == profile.babel[1]
    assert profile.babel.tolist() == [small.babel(counted, p) for p in range(7)]
    for p in (1, 3):
        off = counted - np.diag(np.diag(counted))
        assert overlap_sums(mask, p).tolist() == np.sort(off, axis=1)[:, ::-1][:, :p].sum(axis=1).tolist()


def test_overlap_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = make_mask("uniform", d_in=60, n_latents=300, degree=9, seed=4)
    whole = overlap_profile(mask, p_max=20)
    monkeypatch.setattr("expander_sae.graphs.overlap._SCRATCH", 1000)
    parts = overlap_profile(mask, p_max=20)
    assert parts.pairs.tolist() == whole.pairs.tolist()
    assert parts.babel.tolist() == whole.babel.tolist()
    assert whole.pairs.sum() == comb(300, 2)


def test_a_sample_says_so_and_never_exceeds_the_truth() -> None:
    mask = make_mask("uniform", d_in=100, n_latents=600, degree=8, seed=0)
    whole = overlap_profile(mask)
    sample = overlap_profile(mask, budget=overlap_cost(mask).increments // 6)
    assert not sample.exact
    assert sample.columns == 100
    assert (sample.babel <= whole.babel).all()
    assert abs(sample.pairs.sum() - comb(600, 2)) < 10
    assert abs(sample.pairs[1] / whole.pairs[1] - 1) < 0.1
    again = overlap_profile(mask, budget=overlap_cost(mask).increments // 6)
    assert again.pairs.tolist() == sample.pairs.tolist()
    with pytest.raises(ExpanderSaeError, match="p_max"):
        overlap_profile(mask, p_max=0)


@pytest.mark.parametrize("seed", range(40))
def test_expansion_bounds_hold_for_every_set(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    n_latents = mask.n_latents
    bound = expansion_loss_bound(overlap_profile(mask, p_max=n_latents).babel, mask.degree)
    spectral = spectral_expansion(mask)
    found = find_bad_expansion(mask, s_max=n_latents, restarts=4, seed=seed)
    worst = np.zeros(n_latents + 1)
    for subset in small.subsets(n_latents, n_latents):
        size, count = len(subset), small.neighbours(mask, subset)
        assert count >= spectral.neighbours(size) - 1e-6
        worst[size] = max(worst[size], 1 - count / (mask.degree * size))
    worst = np.maximum.accumulate(worst)
    assert (worst <= bound[: n_latents + 1] + 1e-12).all()
    assert (found.loss <= worst + 1e-12).all()
    assert found.loss[-1] == pytest.approx(worst[-1]) or found.loss[-1] > 0.7 * worst[-1]
    if found.half_size:
        assert worst[found.half_size] >= 0.5 - 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_no_single_exchange_improves_the_set_found(seed: int) -> None:
    rng = np.random.default_rng(300 + seed)
    mask = small.random_mask(rng, d_in=16, n_latents=10, degree=3)
    columns = np.sort(rng.choice(10, 4, replace=False))
    reached = _exchange(mask, columns, row_members(mask))
    assert reached <= small.neighbours(mask, columns)
    counts = {frozenset(s.tolist()): small.neighbours(mask, s) for s in small.subsets(10, 4)}
    fours = [s for s in counts if len(s) == 4]
    # The set it stopped at is one with that count that no exchange improves.
    stuck = [s for s in fours if all(counts[t] >= counts[s] for t in fours if len(s & t) == 3)]
    assert reached in {counts[s] for s in stuck}
    for size in range(1, 5):
        found = find_bad_expansion(mask, s_max=size, restarts=2, seed=seed).loss[size]
        assert found <= max(1 - counts[s] / (3 * len(s)) for s in counts if len(s) <= size) + 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_cores_peeling_and_found_stopping_sets(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    truth = small.stopping_distance(mask)
    for s in range(1, mask.n_latents + 1):
        if core_size(mask, s) == 0:
            assert truth > s
    everything = unpeeled(mask, np.arange(mask.n_latents))
    assert (everything.size == 0) == np.isinf(truth)
    found = find_stopping_set(mask, restarts=8, seed=seed)
    if found is not None:
        assert is_stopping_set(mask, found)
        assert len(found) >= truth
    assert not is_stopping_set(mask, np.arange(0))


def test_packing_against_known_numbers() -> None:
    assert packing_bound(7, 3, 1) == 7  # the Fano plane attains it
    assert packing_bound(5, 2, 1) == 10
    assert packing_bound(5, 3, 3) is None
    assert packing_bound(2048, 7, 1) <= 99_815 < packing_bound(2048, 7, 2)
    assert [smallest_possible_overlap(*size) for size in [(512, 4096, 7), (512, 4096, 16), (2048, 65536, 16)]] == [
        1,
        2,
        2,
    ]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mask = small.random_mask(rng, **small.random_size(rng))
        largest = overlap_profile(mask).largest
        assert largest >= smallest_possible_overlap(mask.d_in, mask.n_latents, mask.degree)


def test_the_law_of_neighbours_is_exact() -> None:
    """Two columns: hypergeometric; three columns of degree 2 in 4 rows: counted over all 6^3 choices."""
    law = np.exp(neighbour_log_law(10, 4, 2))
    for shared in range(5):
        assert law[8 - shared] == pytest.approx(comb(4, shared) * comb(6, 4 - shared) / comb(10, 4))
    pairs = [{a, b} for a in range(4) for b in range(a)]
    counts = np.bincount([len(x | y | z) for x in pairs for y in pairs for z in pairs], minlength=5) / 6**3
    assert np.exp(neighbour_log_law(4, 2, 3)) == pytest.approx(counts)


@pytest.mark.parametrize(
    ("size", "half", "third", "stop", "hall"),
    [
        ((512, 4096, 7), 10, 1, 31, 245),
        ((512, 4096, 16), 15, 4, 38, 403),
        ((576, 4608, 7), 11, 2, 35, 275),
        ((576, 36864, 16), 12, 3, 30, 387),
        ((768, 6144, 8), 17, 2, 53, 418),
        pytest.param((2048, 65536, 16), 45, 10, 127, 1440, marks=pytest.mark.slow),
        pytest.param((2048, 16384, 64), 30, 13, 76, 1948, marks=pytest.mark.slow),
    ],
)
def test_guarantees_for_uniform_masks(size: tuple[int, int, int], half: int, third: int, stop: int, hall: int) -> None:
    """An independent computation of the same bounds gave these numbers, at failure probability 0.01."""
    assert expansion_size(*size, 0.5).size == half
    assert expansion_size(*size, 1 / 3).size == third
    assert stopping_size(*size).size == stop
    assert hall_size(*size).size == hall
    assert stopping_size(*size).failure <= 0.01


def test_stopping_bound_is_a_bound_on_the_measured_probability() -> None:
    """Union bound against the share of masks that have a stopping set of at most s columns."""
    rng = np.random.default_rng(0)
    sizes = {"d_in": 14, "n_latents": 6, "degree": 3}
    distances = np.array([small.stopping_distance(small.random_mask(rng, **sizes)) for _ in range(300)])
    for failure in (0.2, 0.5, 0.9):
        size, bound = stopping_size(14, 6, 3, failure=failure)
        share = (distances <= size).mean()
        assert bound <= failure
        assert share <= bound + 3 * np.sqrt(bound / 300 + 1e-3)
    assert stopping_size(5, 4, 5).size == 1


def test_searches_refuse_nonsense() -> None:
    mask = mask_from_rows(np.array([[0, 1], [1, 2]]), d_in=3)
    with pytest.raises(ExpanderSaeError, match="restarts"):
        find_bad_expansion(mask, s_max=2, restarts=0)
    with pytest.raises(ExpanderSaeError, match="restarts"):
        find_stopping_set(mask, s_max=0)
    with pytest.raises(ExpanderSaeError, match="s of at least 1"):
        core_size(mask, 0)
    assert find_stopping_set(mask) is None
