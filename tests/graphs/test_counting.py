"""Exact expectations of stopping sets, overlaps through subsets, and the trace bound on eigenvalues."""

import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.graphs.expansion import is_stopping_set, spectral_expansion, spectral_loss_floor
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.graphs.random_masks import stopping_size
from expander_sae.graphs.shared_subsets import columns_sharing, duplicate_columns, largest_overlap_below
from expander_sae.graphs.stopping_moment import expected_stopping_sets, stopping_size_exact
from expander_sae.records import ExpanderSaeError

sys.path.insert(0, str(Path(__file__).parents[1] / "theory"))
import small_dictionaries as small


@pytest.mark.parametrize(("d_in", "degree", "size"), [(4, 2, 2), (4, 2, 3), (5, 3, 3), (3, 2, 4), (6, 2, 3), (3, 3, 2)])
def test_expected_stopping_sets_by_enumeration(d_in: int, degree: int, size: int) -> None:
    from itertools import combinations, product

    columns = list(combinations(range(d_in), degree))
    hits = 0
    for chosen in product(columns, repeat=size):
        times = np.bincount(np.array(chosen).ravel(), minlength=d_in)
        hits += not (times == 1).any()
    expected = expected_stopping_sets(d_in, 7, degree, size)
    assert expected * len(columns) ** size == comb(7, size) * hits


def test_expected_stopping_sets_against_random_masks() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(400):
        mask = small.random_mask(rng, d_in=9, n_latents=8, degree=3)
        counts.append(sum(is_stopping_set(mask, subset) for subset in small.subsets(8, 4) if len(subset) == 4))
    mean, error = np.mean(counts), np.std(counts) / 20
    assert abs(mean - float(expected_stopping_sets(9, 8, 3, 4))) < 4 * error


@pytest.mark.parametrize(("size", "reach", "failure"), [((512, 4096, 7), 34, 0.0022), ((576, 4608, 7), 38, 0.0011)])
def test_exact_moments_sharpen_the_closed_form(size: tuple[int, int, int], reach: int, failure: float) -> None:
    """The numbers of an independent computation."""
    exact = stopping_size_exact(*size)
    assert exact.size == reach > stopping_size(*size).size
    assert exact.failure == pytest.approx(failure, rel=0.05)


def test_exact_moments_fall_back_and_keep_small_sizes() -> None:
    assert stopping_size_exact(2048, 16384, 7) == stopping_size(2048, 16384, 7)
    assert stopping_size_exact(5, 4, 5).size == 1
    assert stopping_size_exact(30, 40, 4, failure=0.3).size >= stopping_size(30, 40, 4, failure=0.3).size


@pytest.mark.parametrize("seed", range(30))
def test_columns_that_share_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    counted = small.overlaps(mask)
    for t in range(1, mask.degree + 1):
        expected = [[i, j] for i in range(mask.n_latents) for j in range(i + 1, mask.n_latents) if counted[i, j] >= t]
        assert columns_sharing(mask, t).tolist() == expected
        assert largest_overlap_below(mask, t) == (not expected)


def test_subsets_agree_with_the_index_at_a_real_size() -> None:
    mask = make_mask("uniform", d_in=512, n_latents=4096, degree=7, seed=0)
    profile = overlap_profile(mask)
    assert len(columns_sharing(mask, 3)) == profile.pairs[3:].sum()
    with pytest.raises(ExpanderSaeError, match="overlap_profile"):
        columns_sharing(make_mask("uniform", d_in=512, n_latents=4096, degree=64, seed=0), 8)
    with pytest.raises(ExpanderSaeError, match="rows_shared"):
        columns_sharing(mask, 8)


@pytest.mark.parametrize("seed", range(20))
def test_the_trace_never_promises_more_than_eigenvalues(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    spectrum = spectral_expansion(mask)
    for size in range(1, mask.n_latents + 1):
        assert spectral_loss_floor(mask, size) <= spectrum.loss(size) + 1e-9
    with pytest.raises(ExpanderSaeError, match="size"):
        spectral_loss_floor(mask, 0)


def test_same_columns_share_everything() -> None:
    mask = mask_from_rows(np.array([[0, 1], [0, 1], [0, 1]]), d_in=3)
    assert columns_sharing(mask, 2).tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_duplicate_columns_are_those_beyond_the_distinct_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(np.array([rng.choice(6, 3, replace=False) for _ in range(30)]), axis=1)
    mask = mask_from_rows(rows, d_in=6)
    assert duplicate_columns(mask) == 30 - len({tuple(row) for row in rows.tolist()}) > 0
    assert duplicate_columns(make_mask("galois", d_in=64, n_latents=100, degree=5, seed=seed)) == 0
    clustered = make_mask("clustered", d_in=12, n_latents=40, degree=3, seed=seed)
    assert duplicate_columns(clustered) == 36  # four blocks
